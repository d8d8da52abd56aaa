"""Operators that filter before they subsample: binomial filters, Haar wavelets and Fourier transforms."""

import math
from collections.abc import Sequence
from math import comb
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from poolservice_server import kernel_thresholds as thresholds

_PADDING = {"reflect": "reflect", "replicate": "replicate", "zeros": "constant"}

# The weights of each kernel size. float32 holds them and their products exactly.
_WEIGHTS = {
    size: np.array([comb(size - 1, place) / 2 ** (size - 1) for place in range(size)], np.float32)
    for size in range(1, 8)
}


def blur_pool(samples: torch.Tensor, spec: Any) -> torch.Tensor:
    """Binomial filter with a stride: (N, C, *spatial) to (N, C, *out).

    Source:
        Zhang, "Making Convolutional Networks Shift-Invariant Again", 2019.
    """
    return _blurred(samples, spec)


def max_blur_pool(samples: torch.Tensor, spec: Any) -> torch.Tensor:
    """Maximum of windows of stride 1, then a binomial filter with a stride: (N, C, *spatial) to (N, C, *out).

    Source:
        Zhang, "Making Convolutional Networks Shift-Invariant Again", 2019.
    """
    maxima = samples
    for dim, size in enumerate(spec.max_pool_size, 2):
        maxima = _sliding_maximum(maxima, dim, size)
    return _blurred(maxima, spec)


def wavelet_pool(samples: torch.Tensor, spec: Any) -> torch.Tensor:
    """Approximation of a Haar wavelet transform: (N, C, *spatial) to (N, C, *out).

    Source:
        Williams and Li, "Wavelet Pooling for Convolutional Neural Networks", 2018.
    """
    factor = 2.0 ** -(spec.spatial_dims / 2 if spec.norm == "ortho" else spec.spatial_dims)
    approximation = samples
    for _ in range(spec.levels):
        approximation = _pair_sums(approximation, factor)
    return approximation


def spectral_pool(samples: torch.Tensor, spec: Any) -> torch.Tensor:
    """Crop of the Fourier transform: (N, C, *spatial) to (N, C, *output_size).

    Source:
        Rippel, Snoek and Adams, "Spectral Representations for Convolutional Neural Networks", 2015.
    """
    # Dividing by the number of values both times keeps the mean.
    norm = "forward" if spec.norm == "mean" else "ortho"
    pooled = samples
    for dim, size in reversed(list(enumerate(spec.output_size, 2))):
        if size not in (None, samples.shape[dim]):
            # Half of the spectrum determines the other. irfft ignores the imaginary part of the Nyquist frequency.
            spectrum = torch.fft.rfft(pooled, dim=dim, norm=norm).narrow(dim, 0, size // 2 + 1)
            pooled = torch.fft.irfft(spectrum, size, dim=dim, norm=norm)
    return pooled


def _blurred(samples: torch.Tensor, spec: Any) -> torch.Tensor:
    kernel, stride, mode = spec.kernel_size, spec.stride, spec.padding_mode
    channels = samples.shape[1]
    if (
        samples.is_cpu
        and samples.dtype == torch.float32
        and len(kernel) == 2
        and min(kernel) >= thresholds.BLUR_MIN_KERNEL
        and channels >= thresholds.BLUR_MIN_CHANNELS
        and math.prod(samples.shape[1:]) * max(kernel) >= thresholds.BLUR_MIN_VISITS
    ):
        rows, columns = (_WEIGHTS[size] for size in kernel)
        weight = torch.from_numpy(np.outer(rows, columns)).expand(channels, 1, *kernel)
        return F.conv2d(_padded(samples, kernel, stride, mode), weight, stride=stride, groups=channels)
    filtered = _filtered(samples.flatten(0, 1), kernel, stride, mode)
    return filtered.view(*samples.shape[:2], *filtered.shape[1:])


def _filtered(planes: torch.Tensor, kernel: Sequence[int], stride: Sequence[int], mode: str) -> torch.Tensor:
    """Return the binomial mean of each window of planes (P, *spatial), one dimension after the other."""
    out = [-(-size // step) for size, step in zip(planes.shape[1:], stride, strict=True)]
    values = _padded(planes, kernel, stride, mode)
    # The first sum divides by the sums of all weights, so that no sum overflows.
    scale = 1 / 2 ** (sum(kernel) - len(kernel))
    for dim in range(1, planes.ndim - 1):
        length = (out[dim - 1] - 1) * stride[dim - 1] + 1
        steps = (slice(None),) * dim + (slice(None, None, stride[dim - 1]),)
        terms = [values.narrow(dim, start, length)[steps] for start in range(kernel[dim - 1])]
        values = _binomial_sum(terms, scale)
        scale = 1.0
    # A row's values are not contiguous if there is a stride, which makes this dimension slow. So the rows are filtered
    # as one row without a stride. The windows that reach into the next row are left out.
    values = values.contiguous()
    flat = values.view(-1)
    count = len(flat) - kernel[-1] + 1
    filtered = _binomial_sum([flat.narrow(0, start, count) for start in range(kernel[-1])], scale)
    return filtered.as_strided((*values.shape[:-1], out[-1]), (*values.stride()[:-1], stride[-1])).contiguous()


def _binomial_sum(terms: Sequence[torch.Tensor], scale: float) -> torch.Tensor:
    """Return the sum of the terms, weighted by the binomial coefficients times `scale`."""
    first, *others = terms
    # If the first and the last weight are 1, one sum is enough for both.
    total = first + others.pop() if scale == 1 and others else first * scale
    for place, term in enumerate(others, 1):
        total.add_(term, alpha=scale * comb(len(terms) - 1, place))
    return total


def _pair_sums(values: torch.Tensor, factor: float) -> torch.Tensor:
    """Return `factor` times the sum of each two values along all spatial dimensions; the last one may stand twice."""
    for dim in range(2, values.ndim):
        size = values.shape[dim]
        if size % 2:
            values = torch.cat([values, values.narrow(dim, size - 1, 1)], dim)
        even, odd = (values[(slice(None),) * dim + (slice(start, None, 2),)] for start in (0, 1))
        # The first sum is multiplied by the factor, so that no sum overflows.
        values = even + odd if dim > 2 else (even * factor).add_(odd, alpha=factor)
    return values


def _padded(values: torch.Tensor, kernel: Sequence[int], stride: Sequence[int], mode: str) -> torch.Tensor:
    """Extend the last dimensions, of which the kernel has one size each, as far as the windows reach."""
    sides: list[int] = []
    for size, length, step in zip(kernel, values.shape[-len(kernel) :], stride, strict=True):
        left = (size - 1) // 2
        reach = (length - 1) // step * step + size - left
        sides = [left, max(0, reach - length), *sides]
    return F.pad(values, sides, mode=_PADDING[mode]) if any(sides) else values


def _sliding_maximum(values: torch.Tensor, dim: int, size: int) -> torch.Tensor:
    """Return the maximum of each `size` adjacent values along a dimension; NaN if one of them is NaN."""
    covered = 1
    while covered < size:
        # The maxima of `covered` values give those of twice as many, or of as many as are left.
        shift = min(covered, size - covered)
        length = values.shape[dim] - shift
        values = torch.maximum(values.narrow(dim, 0, length), values.narrow(dim, shift, length))
        covered += shift
    return values
