"""From the caller's input and options to an encoded request."""
