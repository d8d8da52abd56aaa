"""The error of a wrong setting, and the suggestion of the nearest name for an unknown one."""

from collections.abc import Iterable
from difflib import get_close_matches


class SettingsError(Exception):
    """A setting is wrong. The message names the setting, where it was set, and what would be right."""


def did_you_mean(name: str, known: Iterable[str], *, prefix: str = "") -> str:
    """Return "; did you mean NAME?" with the nearest known name, or "" if none is near.

    Args:
        name: the unknown name.
        known: the known names.
        prefix: a prefix that all names share, which the comparison ignores.
    """
    endings = [one.removeprefix(prefix) for one in known]
    nearest = get_close_matches(name.removeprefix(prefix), endings, n=1)
    return f"; did you mean {prefix}{nearest[0]}?" if nearest else ""
