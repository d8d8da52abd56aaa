"""Operators that filter before they subsample: binomial filters, Haar wavelets and Fourier transforms."""

from collections.abc import Iterator, Sequence
from math import comb
from typing import Any

import torch
import torch.nn.functional as F

from poolservice_server import kernel_thresholds as thresholds

_PADDING = {"reflect": "reflect", "replicate": "replicate", "zeros": "constant"}


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
    dims = spec.spatial_dims
    planes = samples.flatten(0, 1)
    for _ in range(spec.levels):
        planes = _filtered(planes, (2,) * dims, (2,) * dims, "replicate")
    if spec.norm == "ortho":
        # The orthonormal transform of two values is sqrt(2) times their mean.
        planes = planes.mul_(2.0 ** (dims * spec.levels / 2))
    return planes.view(*samples.shape[:2], *planes.shape[1:])


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
    ):
        rows, columns = (torch.tensor(_weights(size), dtype=torch.float32) for size in kernel)
        weight = (rows[:, None] * columns).expand(channels, 1, *kernel)
        return F.conv2d(_padded(samples, kernel, stride, mode), weight, stride=stride, groups=channels)
    filtered = _filtered(samples.flatten(0, 1), kernel, stride, mode)
    return filtered.view(*samples.shape[:2], *filtered.shape[1:])


def _filtered(planes: torch.Tensor, kernel: Sequence[int], stride: Sequence[int], mode: str) -> torch.Tensor:
    """Return the binomial mean of each window of planes (P, *spatial), one dimension after the other."""
    out = [-(-size // step) for size, step in zip(planes.shape[1:], stride, strict=True)]
    values = _padded(planes, kernel, stride, mode)
    for dim in range(1, planes.ndim - 1):
        length = (out[dim - 1] - 1) * stride[dim - 1] + 1
        terms = (
            values.narrow(dim, start, length)[(slice(None),) * dim + (slice(None, None, stride[dim - 1]),)]
            for start in range(kernel[dim - 1])
        )
        values = _weighted_sum(terms, kernel[dim - 1])
    # A row's values are not contiguous if there is a stride, which makes this dimension slow. So the rows are filtered
    # as one row without a stride. The windows that reach into the next row are left out.
    values = values.contiguous()
    flat = values.view(-1)
    count = len(flat) - kernel[-1] + 1
    filtered = _weighted_sum((flat.narrow(0, start, count) for start in range(kernel[-1])), kernel[-1])
    return filtered.as_strided((*values.shape[:-1], out[-1]), (*values.stride()[:-1], stride[-1])).contiguous()


def _weighted_sum(terms: Iterator[torch.Tensor], kernel: int) -> torch.Tensor:
    first, *weights = _weights(kernel)
    total = next(terms) * first
    for term, weight in zip(terms, weights, strict=True):
        total.add_(term, alpha=weight)
    return total


def _weights(kernel: int) -> list[float]:
    """Return the binomial coefficients of a row of `kernel` numbers, divided by their sum."""
    return [comb(kernel - 1, place) / 2 ** (kernel - 1) for place in range(kernel)]


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
