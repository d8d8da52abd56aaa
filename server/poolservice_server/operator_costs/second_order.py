"""What the operators that pool products of channels cost: steps, which are nanoseconds, and floats at the peak."""

from typing import Any

from poolservice_server import kernel_thresholds as thresholds
from poolservice_server.operator_costs.cost import Sample

# The steps of a multiplication and addition in a product of matrices, in float32 and float64.
_FLOAT32, _FLOAT64 = 0.022, 0.044


def covariance(spec: Any, sample: Sample) -> tuple[float, float]:
    """Return the cost of CovariancePool."""
    matrix = sample.channels**2
    is_wide = spec.iterations > thresholds.SQUARE_ROOT_FLOAT32_ITERATIONS
    multiplied = _FLOAT64 if is_wide else _FLOAT32
    # Each iteration multiplies three matrices, the first and the last one fewer.
    products = max(spec.iterations, 3 * spec.iterations - 3)
    steps = multiplied * (sample.channels * sample.values + products * sample.channels * matrix)
    steps += (2 + spec.iterations) * matrix + sample.values
    if is_wide:
        return steps + 2 * sample.values, 4 * min(sample.values, thresholds.WIDENED_AT_ONCE) + 15 * matrix
    return steps, sample.values + (8 if spec.iterations else 4) * matrix


def bilinear(_spec: Any, sample: Sample) -> tuple[float, float]:
    """Return the cost of BilinearPool."""
    steps, floats = _outer_products(sample)
    matrix = sample.channels**2
    return steps + 4 * matrix, max(floats, 4 * matrix)


def compact_bilinear(spec: Any, sample: Sample) -> tuple[float, float]:
    """Return the cost of CompactBilinearPool."""
    steps, floats = _outer_products(sample)
    matrix = sample.channels**2
    sketch = spec.output_dim
    sketching = 3 * matrix + 2 * min(matrix, thresholds.SKETCHED_AT_ONCE) + 7 * sketch
    return steps + 5 * matrix + 6 * sketch, max(floats, sketching)


def _outer_products(sample: Sample) -> tuple[float, float]:
    """Return the cost of the matrix of all products of two channels in float64, of which about 2/3 are computed."""
    steps = 1.5 * sample.values + _FLOAT64 * sample.channels * sample.values * 2 / 3
    return steps, 2 * min(sample.values, thresholds.WIDENED_AT_ONCE) + 2.5 * sample.channels**2
