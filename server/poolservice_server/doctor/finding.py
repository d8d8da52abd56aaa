"""What a check found."""

from typing import Literal, NamedTuple

State = Literal["ok", "warning", "problem"]


class Finding(NamedTuple):
    """One thing that a check looked at.

    Attributes:
        check: the subject, in one word: "memory".
        state: ok; warning if the server works, but worse or less safely than it could; problem if it does not start,
            or loses calls.
        sentence: what was found and where and, unless it is ok, what to do. It never has a secret.
    """

    check: str
    state: State
    sentence: str


def ok(check: str, sentence: str) -> Finding:
    """Return that all is well."""
    return Finding(check, "ok", sentence)


def warning(check: str, sentence: str) -> Finding:
    """Return that the server works, but worse or less safely than it could."""
    return Finding(check, "warning", sentence)


def problem(check: str, sentence: str) -> Finding:
    """Return that the server does not start, or loses calls."""
    return Finding(check, "problem", sentence)
