"""What the operators that filter before they subsample cost: steps, which are nanoseconds, and floats at the peak."""

import math
from typing import Any

from poolservice_server import kernel_thresholds as thresholds
from poolservice_server.operator_costs.cost import Sample

# The prime factors of the sizes for which Fourier transforms have fast kernels.
_FAST_FACTORS = (2, 3, 5, 7, 11, 13)


def blur(spec: Any, sample: Sample) -> tuple[float, float]:
    """Return the cost of BlurPool."""
    steps, floats = _filters(sample.values, spec.kernel_size, spec.stride)
    is_large = min(spec.kernel_size) >= thresholds.BLUR_MIN_KERNEL
    is_large = is_large and sample.values * max(spec.kernel_size) >= thresholds.BLUR_MIN_VISITS
    if len(spec.kernel_size) == 2 and is_large and sample.channels >= thresholds.BLUR_MIN_CHANNELS:
        # torch filters all rows and columns at once, and rearranges the channels.
        floats = max(floats, 2.3 * sample.values)
    return steps, floats


def max_blur(spec: Any, sample: Sample) -> tuple[float, float]:
    """Return the cost of MaxBlurPool."""
    maxima = sum((size - 1).bit_length() for size in spec.max_pool_size)
    steps, floats = blur(spec, sample)
    # The maxima, and freed memory that is too small for the padded maxima.
    return steps + 0.6 * maxima * sample.values, floats + 1.6 * sample.values * (maxima > 0)


def wavelet(spec: Any, sample: Sample) -> tuple[float, float]:
    """Return the cost of WaveletPool."""
    # Each level takes some calls, and the second one has at most half of the values.
    steps = 10_000 * spec.levels + 0.8 * sample.values
    # The rows' sums, a copy with an extended edge, and freed memory that is too small for the next level.
    rows = 0.75 if len(sample.spatial) > 1 else 0.2
    is_odd = any(size % 2**spec.levels for size in sample.spatial)
    return steps, (rows + 1.2 * is_odd + 0.3 * (spec.levels > 1)) * sample.values


def spectral(spec: Any, sample: Sample) -> tuple[float, float]:
    """Return the cost of SpectralPool."""
    count: float = sample.values
    steps = 2.0 * count
    floats = 0.0
    for dim in reversed(range(len(sample.spatial))):
        size, result = sample.spatial[dim], spec.output_size[dim]
        if result in (None, size):
            continue
        pooled = count * result / size
        copies = 2 * (dim < len(sample.spatial) - 1)
        steps += count * (_transform(size) + copies) + pooled * (_transform(result) + copies)
        # The spectrum, its cropped copy and the scratch memory of the transforms.
        scratch = sum(6 * length for length in (size, result) if _rest(length) > 1)
        floats = max(floats, (1 + 0.25 * (dim > 1)) * count + 2 * pooled + scratch)
        count = pooled
    return steps, max(0.0, floats)


def _filters(values: float, kernel: tuple[int, ...], stride: tuple[int, ...]) -> tuple[float, float]:
    count = values
    steps = 0.8 * values
    floats = values
    for size, step in zip(kernel[:-1], stride[:-1], strict=True):
        floats = max(floats, count + count / step + (len(kernel) - 2) * values / 2)
        count /= step
        steps += 0.4 * size * count
    # The last dimension is filtered without its stride.
    # Freed memory that is too small for the next values takes a part, too.
    return steps + 0.4 * kernel[-1] * count, 1.2 * max(floats, 2 * count)


def _transform(size: int) -> float:
    """Return the steps of a Fourier transform for each of its values."""
    return 0.2 * math.log2(size + 1) * (1 + size / 2**21) * (6 if _rest(size) > 1 else 1)


def _rest(size: int) -> int:
    """Return the product of the prime factors for which there is no fast kernel."""
    for factor in _FAST_FACTORS:
        while size % factor == 0:
            size //= factor
    return size
