"""The contract of poolservice: everything that client and server share."""

__version__ = "0.1.0"
