"""Means, power sums and the blend of mean and maximum.

float16 and bfloat16 are computed in float32 and rounded once. Integers are summed exactly and give float32: in a
float that holds their sums, and int64, whose sums no float holds, in two halves.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F

from poolservice.specs import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveAvgPool3d,
    AvgPool1d,
    AvgPool2d,
    AvgPool3d,
    GlobalSpec,
    LPPool1d,
    LPPool2d,
    LPPool3d,
    MixedPool1d,
    MixedPool2d,
    MixedPool3d,
    Window,
)
from poolservice_server.pooling.exact_sums import BYTES_IN_FLOAT32, WHOLE_IN_FLOAT64
from poolservice_server.pooling.numpy_kernels import reductions
from poolservice_server.pooling.torch_operators.extremes import window_max
from poolservice_server.pooling.windows import adaptive_counts, window_counts, window_of

TensorResult = tuple[torch.Tensor, torch.Tensor | None]
Mean = Callable[[torch.Tensor], torch.Tensor]

_AVG_POOL: dict[int, Callable[..., torch.Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_ADAPTIVE_AVG_POOL = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}

# Floats in which torch's kernels add without loss of more than rounding.
_COMPUTED_AS_THEY_ARE = (torch.float32, torch.float64)

# Multiplied or rooted, without a series.
_POWERS_BY_ARITHMETIC = (0.5, 1.0, 2.0, 3.0)
# A multiple of what the widest instructions hold, and of that, what torch does not part among its threads.
_POWERS_AT_A_TIME = 64
_POWERS_IN_A_PIECE = 2**15


def avg_pool(planes: torch.Tensor, spec: AvgPool1d | AvgPool2d | AvgPool3d) -> TensorResult:
    """Mean of each window: y[i] = (sum over k of x[stride * i - padding + k]) / divisor, zeros in the padding.

    The divisor is divisor_override, or the number of values in the window, those in the padding among them where
    count_include_pad is set; what ceil_mode lets in beyond the padding never counts.

    Shape:
        (P, *spatial) to (P, *out), as `shapes.windows` counts them.
    """
    override = None if isinstance(spec, AvgPool1d) else spec.divisor_override
    mean = _window_mean(planes, window_of(spec), spec.count_include_pad, override)
    return _narrowed(mean, planes), None


def lp_pool(planes: torch.Tensor, spec: LPPool1d | LPPool2d | LPPool3d) -> TensorResult:
    """Power sum of each window: y[i] = (sum over k of x[stride * i + k]^p)^(1 / p).

    torch's, not the norm of the literature: x^p keeps its sign, and a negative sum counts as 0 or gives NaN.

    Shape:
        (P, *spatial) to (P, *out), as `shapes.windows` counts them.
    """
    kernel_size, stride, _, _, ceil_mode = window_of(spec)
    values = planes.to(_computed_in(planes, 2**63)).contiguous()
    mean = _AVG_POOL[spec.spatial_dims](_power(values, spec.norm_type), kernel_size, stride, 0, ceil_mode)
    total = (mean.sign() * mean.abs().relu_()).mul_(math.prod(kernel_size))
    return _narrowed(_power(total, 1.0 / spec.norm_type), planes), None


def mixed_pool(planes: torch.Tensor, spec: MixedPool1d | MixedPool2d | MixedPool3d) -> TensorResult:
    """Blend of maximum and mean of each window: y = alpha * max + (1 - alpha) * mean.

    The mean counts padded zeros, the maximum does not see them.

    Shape:
        (P, *spatial) to (P, *out), as `shapes.windows` counts them.

    Source:
        Lee, Gallagher and Tu, "Generalizing Pooling Functions in Convolutional Neural Networks: Mixed, Gated, and
        Tree", 2015.
    """
    window = window_of(spec)
    widened = planes.to(torch.float32) if planes.dtype in (torch.float16, torch.bfloat16) else planes
    mean = _window_mean(widened, window, True, None)
    largest = window_max(widened, window).to(mean.dtype)
    return _narrowed(largest.mul_(spec.alpha).add_(mean.mul_(1 - spec.alpha)), planes), None


def adaptive_avg_pool(
    planes: torch.Tensor, spec: AdaptiveAvgPool1d | AdaptiveAvgPool2d | AdaptiveAvgPool3d
) -> TensorResult:
    """Mean of windows that tile the plane: y[i] = mean of x[floor(i * L / out)] to x[ceil((i + 1) * L / out) - 1].

    Shape:
        (P, *spatial) to (P, *output_size), where None keeps the input's size.
    """
    spatial = planes.shape[1:]
    sizes = tuple(size if wanted is None else wanted for wanted, size in zip(spec.sizes, spatial, strict=True))
    if sizes.count(1) == len(sizes):
        return _narrowed(_plane_mean(planes), planes), None
    target: Any = sizes if len(sizes) > 1 else sizes[0]
    mean: Mean = partial(_ADAPTIVE_AVG_POOL[len(sizes)], output_size=target)
    if len(sizes) < 3 and planes.is_floating_point():
        return mean(planes.contiguous()), None
    # adaptive_avg_pool3d would add halves as halves.
    return _narrowed(
        _exactly(planes, mean, math.prod(spatial), lambda: torch.from_numpy(adaptive_counts(spatial, sizes))), planes
    ), None


def global_avg_pool(planes: torch.Tensor, spec: GlobalSpec) -> TensorResult:
    """Mean of each plane: y = sum of x / number of x.

    Shape:
        (P, *spatial) to (P, 1, ...).

    Source:
        Lin, Chen and Yan, "Network In Network", 2013.
    """
    return _narrowed(_plane_mean(planes), planes), None


#: The operators whose values are computed from the input's.
OPERATORS: Mapping[str, Callable[[torch.Tensor, Any], TensorResult]] = MappingProxyType(
    {
        "avg_pool": avg_pool,
        "lp_pool": lp_pool,
        "mixed_pool": mixed_pool,
        "adaptive_avg_pool": adaptive_avg_pool,
        "global_avg_pool": global_avg_pool,
    }
)


def _power(values: torch.Tensor, exponent: float) -> torch.Tensor:
    """Each value to a power, the same bits wherever it lies.

    The processor's kernel computes many at a time and what is left over one by one, with other last bits; so it is
    given whole pieces, filled up, of a size that is not parted among threads.
    """
    if not values.is_cpu or exponent in _POWERS_BY_ARITHMETIC:
        return values.pow(exponent)
    count = values.numel()
    filled = values.new_ones(count + -count % _POWERS_AT_A_TIME)
    filled[:count] = values.reshape(-1)
    for piece in filled.split(_POWERS_IN_A_PIECE):
        piece.pow_(exponent)
    return filled[:count].view(values.shape)


def _window_mean(planes: torch.Tensor, window: Window, count_include_pad: bool, divisor: int | None) -> torch.Tensor:
    kernel_size, stride, padding, _, ceil_mode = window
    dims = len(kernel_size)
    overridden = () if dims == 1 else (divisor,)
    if planes.is_floating_point() and (dims < 3 or planes.dtype in _COMPUTED_AS_THEY_ARE):
        walk = _AVG_POOL[dims]
        return walk(planes.contiguous(), kernel_size, stride, padding, ceil_mode, count_include_pad, *overridden)

    def mean(floats: torch.Tensor) -> torch.Tensor:
        return _AVG_POOL[dims](floats, kernel_size, stride, padding, ceil_mode, count_include_pad, *overridden)

    counts = partial(_divisor, window, planes.shape[1:], count_include_pad, divisor)
    return _exactly(planes, mean, math.prod(kernel_size), counts)


def _divisor(window: Window, spatial: tuple[int, ...], count_include_pad: bool, divisor: int | None) -> torch.Tensor:
    """What the sum of each window is divided by, as float64."""
    if divisor is not None:
        return torch.tensor(divisor, dtype=torch.float64)
    return torch.from_numpy(window_counts(window, spatial, count_include_pad))


def _plane_mean(planes: torch.Tensor) -> torch.Tensor:
    count = planes.shape[1:].numel()
    if planes.is_floating_point():
        # Halves hold neither the sum nor its last bits.
        return _float_mean(planes.contiguous().to(_computed_in(planes, count)))
    return _exactly(planes, _float_mean, count, partial(torch.tensor, count, dtype=torch.float64))


def _float_mean(planes: torch.Tensor) -> torch.Tensor:
    """The mean of each plane of float32 or float64, contiguous (P, *spatial), as (P, 1, ...); NaN of no values."""
    count = planes.shape[1:].numel()
    if planes.is_cpu and count:
        values = planes.numpy()
        return torch.from_numpy(reductions.float_mean(values.shape[1:], values.dtype)(values))
    return planes.view(len(planes), -1).sum(1).div_(count).view(-1, *(1,) * (planes.ndim - 1))


def _exactly(planes: torch.Tensor, mean: Mean, values: int, counts: Callable[[], torch.Tensor]) -> torch.Tensor:
    """`mean` of `planes`, in a type in which its sums, of at most `values` values each, are exact or near.

    `counts` gives what each sum is divided by.
    """
    planes = planes.contiguous()
    if planes.dtype != torch.int64:
        return mean(planes.to(_computed_in(planes, values)))
    # Sums are whole numbers, and rounding undoes what the division took from them. float64 holds a sum of few or
    # small ones; else it holds those of the halves.
    divisor = counts().to(planes.device)
    if planes.numel() == 0 or max(int(planes.amax()), -int(planes.amin())) * values < WHOLE_IN_FLOAT64:
        return mean(planes.to(torch.float64)).mul_(divisor).round_().div_(divisor)
    high, low = (mean(half.to(torch.float64)).mul_(divisor).round_() for half in (planes >> 32, planes & 0xFFFFFFFF))
    return (high * 2.0**32 + low) / divisor


def _computed_in(planes: torch.Tensor, values: int) -> torch.dtype:
    if planes.dtype in (torch.float32, torch.float16, torch.bfloat16):
        return torch.float32
    if planes.dtype in (torch.uint8, torch.int8) and values <= BYTES_IN_FLOAT32:
        return torch.float32
    return torch.float64


def _narrowed(computed: torch.Tensor, planes: torch.Tensor) -> torch.Tensor:
    """What was computed of `planes`, in the result's type."""
    if computed.dtype is planes.dtype:
        return computed
    return computed.to(planes.dtype if planes.is_floating_point() else torch.float32)
