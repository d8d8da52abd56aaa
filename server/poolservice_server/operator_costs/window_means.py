"""The costs of power and exponential means, for the table of operators.

Each has a formula for values whose powers or exponentials stay in range, and one for all others, which takes up to ten
times as long and twice the memory. Only the values decide which one is used, so the estimate is between the two.
"""

import math
from typing import Any, NamedTuple

from poolservice.specs import WindowSpec
from poolservice_server.kernel_thresholds import (
    PARAMETER_GROUPS,
    SAMPLE_GROUP_BYTES,
    WINDOW_MAX_GATHERED,
    WINDOW_MAX_VISITS,
)
from poolservice_server.operator_costs.cost import Sample
from poolservice_server.operator_shapes import window_grid

# The steps of the calls for one position of a window, along one dimension or in all of them.
_CALLS, _CALLS_OF_VISIT = 1e4, 2e4
# Whole planes take this part of the steps, because torch's sums and softmax of them are fast.
_PLANE = 0.4


class _Formula(NamedTuple):
    """What one formula needs.

    Attributes:
        value: steps for each value.
        visit: steps for each value of a window, in each pass along a dimension.
        result: steps for each result.
        floats: floats for each value.
        pooled: floats for each value that the first pass leaves.
        padded: floats for each value if the planes are padded.
        plane: floats for each value if the window is the plane.
    """

    value: float
    visit: float
    result: float
    floats: float
    pooled: float
    padded: float
    plane: float


def softmax_mean(spec: WindowSpec, sample: Sample) -> tuple[float, float]:
    """Return the steps and floats of a mean that is weighted by a softmax."""
    in_range = _Formula(1.7, 0.3, 0.2, floats=0.6, pooled=3.2, padded=0.9, plane=1)
    return _between(spec, sample, in_range, _Formula(0.5, 3.5, 0.5, floats=0.4, pooled=8, padded=2.5, plane=3))


def log_mean_exp(spec: WindowSpec, sample: Sample) -> tuple[float, float]:
    """Return the steps and floats of the logarithm of a mean of exponentials."""
    in_range = _Formula(1.6, 0.2, 1.5, floats=1, pooled=1.2, padded=1.1, plane=1)
    return _between(spec, sample, in_range, _Formula(1.5, 2.5, 2, floats=0.2, pooled=5.5, padded=1.3, plane=1))


def power_mean(spec: Any, sample: Sample) -> tuple[float, float]:
    """Return the steps and floats of a power mean, or of a norm."""
    p = spec.norm_type if spec.operator == "lp_pool" else spec.p
    numbers = p if isinstance(p, tuple) else (p,)
    # Few exponents are applied to their channels one by one; see `torch_operators.channel_parameters`.
    is_product = len(numbers) <= PARAMETER_GROUPS and all(number in (1, 2, 3) for number in numbers)
    value, root = (0.4 if is_product else 3.0), 3.0
    if p in (1, 2):
        value, root = 0.2, 0.5
    in_range = _Formula(value, 0.2, root, floats=1, pooled=1, padded=2, plane=1)
    return _between(spec, sample, in_range, _Formula(value + 2, 2.5, 4, floats=0.1, pooled=5, padded=4.5, plane=2))


def similarity_mean(spec: WindowSpec, sample: Sample) -> tuple[float, float]:
    """Return the steps and floats of a mean with weights that depend on the mean of the window."""
    kernel_size = spec.window_in(sample.spatial).kernel_size
    size = math.prod(kernel_size)
    visits = size * sample.results
    steps = 3.0 * visits + sample.values
    if kernel_size == sample.spatial:
        return steps, 3.0 * sample.values
    padded = _is_padded(spec, sample)
    if size > WINDOW_MAX_VISITS and visits <= WINDOW_MAX_GATHERED * sample.values:
        return steps, 3.0 * visits + (1.0 + padded) * sample.values
    steps += _CALLS_OF_VISIT * size * _groups(sample)
    return steps, (1.0 + 2 * padded) * sample.values + 6.0 * sample.results


def ada_mean(spec: WindowSpec, sample: Sample) -> tuple[float, float]:
    """Return the steps and floats of the sum of a similarity-weighted and a softmax-weighted mean."""
    steps, floats = similarity_mean(spec, sample)
    other_steps, other_floats = softmax_mean(spec, sample)
    return steps + other_steps, max(floats, other_floats) + sample.results


def _between(spec: WindowSpec, sample: Sample, *formulas: _Formula) -> tuple[float, float]:
    """Return the geometric means of the steps and floats of two formulas, whose sums go dimension by dimension."""
    window = spec.window_in(sample.spatial)
    is_plane = window.kernel_size == sample.spatial
    visits, left = sample.values, sample.results
    if not is_plane:
        passes, sizes = [], list(sample.spatial)
        for dimension, out in enumerate(window_grid(window, sample.spatial)):
            sizes[dimension] = out
            passes.append(sample.channels * math.prod(sizes))
        visits = sum(count * size for count, size in zip(passes, window.kernel_size, strict=True))
        left = passes[0]
    padded = _is_padded(spec, sample)
    steps, floats = 1.0, 1.0
    for one in formulas:
        of_one = one.value * sample.values + one.visit * visits + one.result * sample.results
        steps *= of_one * (_PLANE if is_plane else 1)
        in_windows = (one.floats + one.padded * padded) * sample.values + one.pooled * left
        floats *= one.plane * sample.values if is_plane else in_windows
    calls = 0 if is_plane else sum(window.kernel_size) * _groups(sample)
    return math.sqrt(steps) + _CALLS * calls, math.sqrt(floats) / _parts(spec)


def _parts(spec: Any) -> int:
    """Return in how many parts a sample is pooled because a parameter has a few numbers."""
    counts = (len(numbers) for name in ("p", "alpha", "r") if isinstance(numbers := getattr(spec, name, None), tuple))
    count = next(counts, 1)
    return count if count <= PARAMETER_GROUPS else 1


def _is_padded(spec: WindowSpec, sample: Sample) -> bool:
    window = spec.window_in(sample.spatial)
    return window.ceil_mode or any(window.padding)


def _groups(sample: Sample) -> int:
    """Return in how many groups of channels a sample is pooled."""
    return math.ceil(4 * sample.values / SAMPLE_GROUP_BYTES)
