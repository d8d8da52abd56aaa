"""The costs of operators that draw random values."""

import math
from typing import Any

from poolservice_server.kernel_thresholds import PIECE_VALUES
from poolservice_server.operator_costs.cost import Sample
from poolservice_server.operator_costs.order_statistics import per_sorted_value


def stochastic(spec: Any, sample: Sample) -> tuple[float, float]:
    """Return the cost of StochasticPool."""
    if spec.mode == "weighted":
        steps, floats = per_sorted_value(_weighted, whole=0.8, others=1.2)(spec, sample)
        window = spec.window_in(sample.spatial)
        # The sums of windows go dimension by dimension, and leave this much of the first one.
        left = 0.0 if window.kernel_size == sample.spatial else sample.values / window.stride[0]
        return steps, floats + 2 * left
    steps, floats = per_sorted_value(lambda _spec, _size: 10, whole=6.0, others=1.0)(spec, sample)
    # The numbers that decide, as float64, and the pieces with their weights as int64.
    return steps, floats + 8.0 * sample.results + 5.0 * PIECE_VALUES


def s3(spec: Any, sample: Sample) -> tuple[float, float]:
    """Return the cost of S3Pool."""
    reads = sum(kernel / stride for kernel, stride, _ in spec.axes)
    kernel, stride, _ = spec.axes[0]
    floats = (3.0 if kernel > 1 else 1.0) * sample.values / stride
    return 1.2 * reads * sample.values + 4 * sample.results, floats


def fractional_max(spec: Any, sample: Sample) -> tuple[float, float]:
    """Return the cost of FractionalMaxPool."""
    # The indices, which torch always returns, count as results if the spec returns them.
    floats = 1.3 if spec.return_indices else 3.3
    return sample.results * (10 + 1.5 * math.prod(spec.kernel_size)), floats * sample.results


def _weighted(spec: Any, _size: int) -> float:
    """Return the steps for each value of each window."""
    return 1.0 if spec.kernel_size is None else 2.0
