"""Turns the times of records, which count from an arbitrary moment, into the times of spans."""

import time

# NTP moves the system's clock slowly, by less than this per call. After a larger step the spans follow it.
_LARGEST_STEP = 5_000_000


class Clock:
    """Converts seconds of time.monotonic and time.perf_counter to nanoseconds since 1970.

    All spans of a call are converted alike, so that their order and durations are exact.
    """

    def __init__(self) -> None:
        self._monotonic = self._perf_counter = 0
        self.adjust()

    def adjust(self) -> None:
        """Follow the system's clock if it has been set."""
        offset = time.time_ns() - time.monotonic_ns()
        if abs(offset - self._monotonic) > _LARGEST_STEP:
            self._monotonic = offset
            # One difference between the two clocks, so that they agree with each other.
            self._perf_counter = offset + time.monotonic_ns() - time.perf_counter_ns()

    def of_monotonic(self, seconds: float) -> int:
        """Return the time of a time.monotonic()."""
        return round(seconds * 1e9) + self._monotonic

    def of_perf_counter(self, seconds: float) -> int:
        """Return the time of a time.perf_counter()."""
        return round(seconds * 1e9) + self._perf_counter
