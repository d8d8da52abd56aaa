"""How long work of each kind takes, as far as its batches have shown."""

from collections.abc import Hashable

# Kinds that are remembered; beyond that all are forgotten, and learnt again.
_KINDS_KEPT = 1024

# A batch that was held up, by another thread or another process, says nothing of its kind: the quickest counts, and
# loses a little with each slower one, so that a kind that did become slower is found out.
_FORGETTING = 1.05


class CostModel:
    """The seconds a byte of each kind of work."""

    def __init__(self) -> None:
        self._seconds_per_byte: dict[Hashable, float] = {}

    def learn(self, key: Hashable, nbytes: int, seconds: float) -> None:
        """A batch of this kind took so long."""
        measured = seconds / max(nbytes, 1)
        known = self._seconds_per_byte.get(key)
        if known is None:
            if len(self._seconds_per_byte) >= _KINDS_KEPT:
                self._seconds_per_byte.clear()
        else:
            measured = min(measured, known * _FORGETTING)
        self._seconds_per_byte[key] = measured

    def expect(self, key: Hashable, nbytes: int) -> float | None:
        """The seconds that a batch will take; None for a kind that has not run yet."""
        known = self._seconds_per_byte.get(key)
        return None if known is None else known * nbytes

    def fitting(self, key: Hashable, seconds: float) -> float:
        """The bytes that run in so many seconds; any number of a kind that has not run yet."""
        known = self._seconds_per_byte.get(key)
        return seconds / known if known else float("inf")
