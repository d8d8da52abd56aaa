"""Decides which requests run inline: on the event loop, where they delay everything else."""

from poolservice_server.batcher.cost_model import CostModel
from poolservice_server.batcher.request import Request

# In one loop iteration, requests that run immediately may take this many times as long as one batch from the queue.
# Their messages are still in the processor's caches; later they would take up to twice as long. With a factor of 1, a
# call took a tenth more CPU time when 32 callers sent 602 kB each, faster than the server processed them.
_IMMEDIATE_FACTOR = 4

# The first batch of a key also makes and caches its kernels, which takes several times as long as small planes do.
_FIRST_BATCH_FACTOR = 8

_INFINITY = float("inf")


class InlinePolicy:
    """The rules that decide which requests are short enough to run inline.

    Handing a batch to a thread and back costs about as much as running a short one, and every step on the thread waits
    for Python's global interpreter lock.

    Args:
        cost_model: estimates how long a batch takes.
        inline_bytes: size up to which a batch whose key has not run yet runs inline if its estimate allows that, too;
            with 0, nothing ever does.
        inline_seconds: how long one batch from the queue may keep the event loop busy. A request that takes half
            of this or more runs on a thread. The requests that run immediately in one loop iteration may take four
            times this.
        unbatched_bytes: size from which a request gains nothing from batching, because copying it into a batch takes
            as long as a batch of its own. It runs immediately, before it has left the processor's caches.
    """

    def __init__(
        self, cost_model: CostModel, *, inline_bytes: int, inline_seconds: float, unbatched_bytes: int
    ) -> None:
        self._cost_model = cost_model
        self._inline_bytes = inline_bytes
        self._inline_seconds = inline_seconds
        self._unbatched_bytes = unbatched_bytes
        # The requests that arrived in this loop iteration, and the seconds of those that ran immediately.
        self._arrivals = 0
        self._seconds = 0.0
        # True if exactly one request arrived in the previous loop iteration with arrivals.
        self._last_was_single = False

    def max_inline_bytes(self, request: Request) -> float:
        """Return the largest size of a batch with this request's key that may run inline."""
        if not self._inline_bytes:
            return 0
        seconds_per_byte = self._cost_model.seconds_per_byte(request.key)
        if seconds_per_byte is None:
            if not request.seconds:
                return self._inline_bytes
            if _FIRST_BATCH_FACTOR * request.seconds > self._inline_seconds:
                return 0
            return min(self._inline_bytes, self._inline_seconds / request.seconds * request.nbytes)
        if 2 * seconds_per_byte * request.nbytes >= self._inline_seconds:
            return 0
        return self._inline_seconds / seconds_per_byte if seconds_per_byte else _INFINITY

    def gains_from_batching(self, nbytes: int) -> bool:
        """Return True if a request of this size runs faster in a batch than by itself."""
        return not self._inline_bytes or nbytes < self._unbatched_bytes

    def count_arrival(self) -> bool:
        """Count a request that arrives.

        Returns:
            True if it is the first in the current loop iteration; the caller must then schedule `end_iteration`.
        """
        self._arrivals += 1
        return self._arrivals == 1

    def runs_immediately(self, request: Request) -> bool:
        """Return True if the request that arrived last need not wait for others of the same loop iteration.

        A request that gains nothing from batching runs immediately until the iteration has taken too long. Any other
        request runs immediately if it is the first of its iteration and only one arrived in the previous iteration with
        arrivals.
        """
        if not self.gains_from_batching(request.nbytes):
            within_limit = self._seconds <= _IMMEDIATE_FACTOR * self._inline_seconds
            return within_limit and request.nbytes <= self.max_inline_bytes(request)
        single = self._last_was_single and self._arrivals == 1
        return single and request.nbytes <= self.max_inline_bytes(request)

    def add_seconds(self, seconds: float) -> None:
        """Record how long a request took that ran immediately."""
        self._seconds += seconds

    def end_iteration(self) -> None:
        """Prepare for the next loop iteration."""
        self._last_was_single = self._arrivals == 1
        self._arrivals = 0
        self._seconds = 0.0
