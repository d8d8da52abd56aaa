"""How fast the batcher completes what it has admitted, which tells a refused caller when to retry."""

from collections.abc import Callable

# Used before any throughput has been measured.
_FIRST_RETRY_AFTER = 0.1
_SHORTEST_RETRY_AFTER = 0.001
_LONGEST_RETRY_AFTER = 30.0

# Throughput is measured over intervals of this many busy seconds. Each new interval weighs as much as all earlier ones
# together.
_INTERVAL_SECONDS = 0.05


class Throughput:
    """Requests, bytes and estimated seconds of work per second, measured while there are requests.

    The estimated seconds of work per second are the concurrency, corrected by the error of the estimates.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # All of them are 0 until they have been measured.
        self._requests_per_second = 0.0
        self._bytes_per_second = 0.0
        self._work_per_second = 0.0
        self._start = 0.0
        self._seconds = 0.0
        self._requests = 0
        self._nbytes = 0
        self._work = 0.0

    def resume(self) -> None:
        """Start measuring again, because the batcher has requests again."""
        self._start = self._clock()

    def count(self, nbytes: int) -> None:
        """Count a request that has ended."""
        self._requests += 1
        self._nbytes += nbytes

    def count_work(self, seconds: float) -> None:
        """Count work that has ended, in estimated seconds."""
        self._work += seconds

    def measure(self) -> None:
        """Update the throughput if the current interval is long enough."""
        now = self._clock()
        self._seconds += now - self._start
        self._start = now
        if self._seconds < _INTERVAL_SECONDS:
            return
        weight = 0.5 if self._requests_per_second else 1.0
        self._requests_per_second += weight * (self._requests / self._seconds - self._requests_per_second)
        self._bytes_per_second += weight * (self._nbytes / self._seconds - self._bytes_per_second)
        self._work_per_second += weight * (self._work / self._seconds - self._work_per_second)
        self._seconds = 0.0
        self._requests = 0
        self._nbytes = 0
        self._work = 0.0

    def retry_after(self, requests: int, nbytes: int, work: float) -> float:
        """Return the seconds until half of what is admitted is done: callers that retry then keep the device busy.

        Args:
            requests: number of requests.
            nbytes: memory that they need.
            work: their estimated seconds of work.
        """
        if not self._requests_per_second:
            return _FIRST_RETRY_AFTER
        seconds = requests / self._requests_per_second
        if self._bytes_per_second:
            seconds = max(seconds, nbytes / self._bytes_per_second)
        if self._work_per_second:
            seconds = max(seconds, work / self._work_per_second)
        return min(max(seconds / 2, _SHORTEST_RETRY_AFTER), _LONGEST_RETRY_AFTER)
