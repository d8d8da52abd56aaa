"""A cost, the sample it is estimated for, and the costs that are proportional to the number of values."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from poolservice.specs import PoolSpec, WindowSpec


class Sample(NamedTuple):
    """The sizes of one sample, from which the cost of pooling it is estimated.

    Attributes:
        channels: C.
        spatial: its spatial shape.
        results: the number of values in its result.
    """

    channels: int
    spatial: tuple[int, ...]
    results: int

    @property
    def values(self) -> int:
        """The number of its values."""
        return self.channels * math.prod(self.spatial)


#: Returns the steps of pooling a sample, and the number of floats in its intermediates at the peak.
Cost = Callable[[Any, Sample], tuple[float, float]]


def per_value(steps: float, floats: float = 2.0) -> Cost:
    """Return the cost of so many steps and floats for each value of the sample and of the result."""

    def cost(_spec: PoolSpec, sample: Sample) -> tuple[float, float]:
        count = sample.values + sample.results
        return steps * count, floats * count

    return cost


def per_visit(steps: float, floats: float = 3.0) -> Cost:
    """Return the cost of so many steps for each value of each window, and so many floats for each value and window."""

    def cost(spec: WindowSpec, sample: Sample) -> tuple[float, float]:
        visits = sample.results * math.prod(spec.window_in(sample.spatial).kernel_size)
        return steps * max(visits, sample.values), floats * (sample.values + sample.results)

    return cost
