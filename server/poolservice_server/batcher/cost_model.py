"""How long batches take: estimated before a key has run, then learned from its batches."""

from collections.abc import Hashable

from poolservice_server.batcher.request import Request

# Number of keys to remember. When it is reached, the model starts again from nothing.
_MAX_KEYS = 1024

# A batch can be delayed by another thread or process, which says nothing about its key. So the model keeps the fastest
# measurement and raises it by this factor whenever a batch was slower: a key that has become slower is found out.
_RISE_PER_SLOWER_BATCH = 1.05

# A batch that took this long counts in full, whatever delayed it: if its key has become that slow, for example because
# the values are subnormal, no further batch of it may run inline. A faster batch corrects the model immediately.
_LONG_SECONDS = 0.05

_INFINITY = float("inf")


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
        elif seconds < _LONG_SECONDS:
            measured = min(measured, known * _RISE_PER_SLOWER_BATCH)
        self._seconds_per_byte[key] = measured

    def seconds_per_byte(self, key: Hashable) -> float | None:
        """Return the measured seconds per byte of a key, or None if no batch of it has run."""
        return self._seconds_per_byte.get(key)

    def estimate(self, request: Request) -> float:
        """Return the seconds that the runner will take for a request."""
        known = self._seconds_per_byte.get(request.key)
        return request.seconds if known is None else known * request.nbytes

    def estimate_bytes(self, request: Request, seconds: float) -> float:
        """Return the size of a batch with this request's key that will run within `seconds`; it may be infinite."""
        known = self._seconds_per_byte.get(request.key)
        if known is None:
            return seconds / request.seconds * request.nbytes if request.seconds else _INFINITY
        return seconds / known if known else _INFINITY
