"""Histograms as plain numbers. They become metrics when they are scraped, see `metrics`."""

from bisect import bisect_left
from collections.abc import Sequence

#: Upper bounds of durations in seconds: 1, 2.5 and 5 times the powers of ten, from 10 us to 50 s.
DURATION_BOUNDS = tuple(float(f"{factor}e{power}") for power in range(-5, 2) for factor in (1, 2.5, 5))

#: Upper bounds of batch sizes: the powers of two up to 1024.
SIZE_BOUNDS = tuple(float(2**power) for power in range(11))


class Histogram:
    """The number of observed values in each bucket, and their sum. Not thread-safe: one thread, or a lock, updates it.

    Args:
        bounds: the upper bounds of all buckets but the last, which has none.

    Attributes:
        bounds: as the argument.
        counts: the number of values in each bucket.
        total: the sum of all values.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float] = DURATION_BOUNDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value
