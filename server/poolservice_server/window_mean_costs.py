"""The costs of power and exponential means, for the table of operators.

Each has a formula for values whose powers or exponentials stay in range, and one for all others, which takes up to ten
times as long. Only the values decide which one is used, so the estimate is between the two.
"""

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from poolservice.specs import WindowSpec
from poolservice_server.kernel_thresholds import SAMPLE_GROUP_BYTES, WINDOW_MAX_GATHERED, WINDOW_MAX_VISITS
from poolservice_server.operator_shapes import window_grid

if TYPE_CHECKING:
    from poolservice_server.operators import Sample

# The steps of the calls for one position of a window, along one dimension or in all of them.
_CALLS, _CALLS_OF_VISIT = 1e4, 2e4


class _Steps(NamedTuple):
    """Steps for each value, for each value of a window in each pass along a dimension, and for each result."""

    value: float
    visit: float
    result: float


def softmax_mean(spec: WindowSpec, sample: "Sample") -> tuple[float, float]:
    """Return the steps and floats of a mean that is weighted by a softmax."""
    steps = _along_dimensions(spec, sample, _Steps(1.7, 0.4, 0.2), _Steps(0.5, 3.5, 0.5))
    return steps, 8.0 * (sample.values + sample.results)


def log_mean_exp(spec: WindowSpec, sample: "Sample") -> tuple[float, float]:
    """Return the steps and floats of the logarithm of a mean of exponentials."""
    steps = _along_dimensions(spec, sample, _Steps(1.6, 0.3, 1.5), _Steps(1.5, 2.5, 2.0))
    return steps, 7.0 * (sample.values + sample.results)


def power_mean(spec: Any, sample: "Sample") -> tuple[float, float]:
    """Return the steps and floats of a power mean, or of a norm."""
    p = spec.norm_type if spec.operator == "lp_pool" else spec.p
    value = 0.5 if p in (1.0, 2.0, 3.0) else 3.0
    steps = _along_dimensions(spec, sample, _Steps(value, 0.25, 3.0), _Steps(value + 2, 2.5, 4.0))
    return steps, 8.0 * (sample.values + sample.results)


def similarity_mean(spec: WindowSpec, sample: "Sample") -> tuple[float, float]:
    """Return the steps and floats of a mean with weights that depend on the mean of the window."""
    kernel_size = spec.window_in(sample.spatial).kernel_size
    size = math.prod(kernel_size)
    visits = size * sample.results
    steps = 3.0 * visits + sample.values
    is_gathered = size > WINDOW_MAX_VISITS and visits <= WINDOW_MAX_GATHERED * sample.values
    if is_gathered or kernel_size == sample.spatial:
        return steps, 4.0 * visits + 2.0 * sample.values
    return steps + _CALLS_OF_VISIT * size * _groups(sample), 5.0 * (sample.values + sample.results)


def ada_mean(spec: WindowSpec, sample: "Sample") -> tuple[float, float]:
    """Return the steps and floats of the sum of a similarity-weighted and a softmax-weighted mean."""
    steps, floats = similarity_mean(spec, sample)
    other_steps, other_floats = softmax_mean(spec, sample)
    return steps + other_steps, max(floats, other_floats) + 2.0 * sample.results


def _along_dimensions(spec: WindowSpec, sample: "Sample", in_range: _Steps, beyond: _Steps) -> float:
    """Return the steps of sums along one dimension after the other, between those of two formulas."""
    kernel_size = spec.window_in(sample.spatial).kernel_size
    visits, calls = sample.values, 0
    if kernel_size != sample.spatial:
        visits, calls, sizes = 0, sum(kernel_size), list(sample.spatial)
        for dimension, out in enumerate(window_grid(spec.window_in(sample.spatial), sample.spatial)):
            sizes[dimension] = out
            visits += sample.channels * math.prod(sizes) * kernel_size[dimension]
    fast, slow = (
        steps.value * sample.values + steps.visit * visits + steps.result * sample.results
        for steps in (in_range, beyond)
    )
    return math.sqrt(fast * slow) + _CALLS * calls * _groups(sample)


def _groups(sample: "Sample") -> int:
    """Return in how many groups of channels a sample is pooled."""
    return math.ceil(4 * sample.values / SAMPLE_GROUP_BYTES)
