"""The costs of operators that need all values of a window at once, of which a bounded number is sorted at a time."""

import math
from collections.abc import Callable
from typing import Any

from poolservice.specs import WindowSpec
from poolservice_server.kernel_thresholds import PIECE_VALUES
from poolservice_server.operator_costs.cost import Cost, Sample


def per_sorted(steps: float) -> Cost:
    """Return the cost of so many steps for each value of each window."""
    return per_sorted_value(lambda _spec, size: steps * _sorting(size))


def per_sorted_value(steps: Callable[[Any, int], float], *, whole: float = 1.0, others: float = 0.0) -> Cost:
    """Return the cost of steps for each value of each window that depend on the number of its values.

    Args:
        steps: the steps for a value, from the spec and the number of values of a window.
        whole: the floats for each value of a window that is sorted as a whole because it exceeds the bounded number.
        others: further floats for each value of the sample.
    """

    def cost(spec: WindowSpec, sample: Sample) -> tuple[float, float]:
        window = spec.window_in(sample.spatial)
        size = math.prod(window.kernel_size)
        visits = max(sample.results * size, sample.values)
        floats = sample.results + (whole * size if size > PIECE_VALUES else 3.0 * min(visits, PIECE_VALUES))
        copied = others + (1.0 if any(window.padding) or window.ceil_mode else 0.0)
        return steps(spec, size) * visits, floats + copied * sample.values

    return cost


def _sorting(size: int) -> float:
    """Return how much longer than in small windows a value takes: many values exceed the first cache."""
    return math.log2(size) / 4 if size >= 512 else 1.0


def _rank(spec: Any, size: int) -> float:
    # Of few values, the smallest and the largest are found with few comparisons.
    return 0.8 if size <= 32 and spec.rank in (1, size) else 2 * _sorting(size)


def _trimmed(_spec: Any, size: int) -> float:
    return 3 * _sorting(size)


def _top_k(spec: Any, size: int) -> float:
    # torch selects few of many values in one pass.
    return 2.0 if spec.k * 64 <= size else 1.7 * _sorting(size)


#: The costs of the operators whose steps depend on the ranks that they need.
rank = per_sorted_value(_rank)
top_k_mean = per_sorted_value(_top_k, whole=4.0, others=0.25)
trimmed_mean = per_sorted_value(_trimmed, others=0.25)
