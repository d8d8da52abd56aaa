"""How long work on a thread learns that nobody waits for it any more."""

from collections.abc import Callable

#: Returns True if nobody waits for the results any more, so that the rest of the work is pointless.
Stop = Callable[[], bool]


def never() -> bool:
    """Return False: somebody waits until the work is done."""
    return False


class WorkStopped(Exception):
    """The work ended early, because `Stop` returned True."""

    def __init__(self) -> None:
        super().__init__("the work was stopped, because nobody waits for its results any more")
