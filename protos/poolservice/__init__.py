"""The contract of poolservice and what both sides of the wire share."""

__version__ = "0.1.0"
