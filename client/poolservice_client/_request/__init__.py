"""Building a request: from the caller's input and options to an encoded message."""
