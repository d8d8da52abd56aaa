"""An estimate of how long batches take, learned from the batches that have run."""

from collections.abc import Hashable

# Number of keys to remember. When it is reached, the model starts again from nothing.
_MAX_KEYS = 1024

# A batch can be delayed by another thread or process, which says nothing about its key. So the model keeps the fastest
# measurement and raises it by this factor whenever a batch was slower: a key that has become slower is found out.
_RISE_PER_SLOWER_BATCH = 1.05


class CostModel:
    """The seconds per byte of each batch key."""

    def __init__(self) -> None:
        self._seconds_per_byte: dict[Hashable, float] = {}

    def observe(self, key: Hashable, nbytes: int, seconds: float) -> None:
        """Record how long a batch took."""
        measured = seconds / max(nbytes, 1)
        known = self._seconds_per_byte.get(key)
        if known is None:
            if len(self._seconds_per_byte) >= _MAX_KEYS:
                self._seconds_per_byte.clear()
        else:
            measured = min(measured, known * _RISE_PER_SLOWER_BATCH)
        self._seconds_per_byte[key] = measured

    def estimate(self, key: Hashable, nbytes: int) -> float | None:
        """Return the seconds that a batch will take, or None if no batch of this key has run."""
        known = self._seconds_per_byte.get(key)
        return None if known is None else known * nbytes

    def estimate_bytes(self, key: Hashable, seconds: float) -> float:
        """Return the bytes that will run within `seconds`: infinity if no batch of this key has run."""
        known = self._seconds_per_byte.get(key)
        return seconds / known if known else float("inf")
