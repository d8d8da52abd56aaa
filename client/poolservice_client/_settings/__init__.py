"""A client's settings, checked once when it is made."""
