"""The error of a check."""


class CheckFailed(Exception):
    """A backbone can be read, but does not do what it should. The message is one sentence."""
