"""The means, the power sums and the blend of maximum and mean, in torch.

float16 and bfloat16 are computed in float32 and rounded once. Integers are summed exactly, in a float that holds their
sums, and give float32. No float holds the sums of int64, so large int64 values are summed in two halves of 32 bits.
"""

import math
from collections.abc import Callable
from functools import partial
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
from poolservice_server.pooling.array_types import TensorResult
from poolservice_server.pooling.numpy_kernels import global_reductions
from poolservice_server.pooling.sum_dtypes import BYTES_IN_FLOAT32, INTEGERS_IN_FLOAT64
from poolservice_server.pooling.torch_operators import power_means
from poolservice_server.pooling.torch_operators.extremes import window_max
from poolservice_server.pooling.torch_operators.power import power
from poolservice_server.pooling.window_geometry import mean_divisors, tile_grid, values_per_tile, window_of

_Mean = Callable[[torch.Tensor], torch.Tensor]

_AVG_POOL: dict[int, Callable[..., torch.Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_ADAPTIVE_AVG_POOL = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}

# The dtypes in which all of torch's kernels add, with no more loss than rounding.
_WIDE_FLOATS = (torch.float32, torch.float64)


def avg_pool(planes: torch.Tensor, spec: AvgPool1d | AvgPool2d | AvgPool3d) -> TensorResult:
    """Mean of each window: y[i] = (sum over k of x[stride * i - padding + k]) / divisor, zeros in the padding.

    The divisor is divisor_override, or the number of values in the window. Padding counts if count_include_pad is set.
    Positions beyond the padding, which ceil_mode allows, never count.

    Shape:
        (P, *spatial) to (P, *out), out from `shapes.window_grid`.
    """
    override = None if isinstance(spec, AvgPool1d) else spec.divisor_override
    mean = _window_mean(planes, window_of(spec), spec.count_include_pad, override)
    return _to_result_dtype(mean, planes), None


def lp_pool(planes: torch.Tensor, spec: LPPool1d | LPPool2d | LPPool3d) -> TensorResult:
    """Power sum of each window: y[i] = (sum over k of x[stride * i + k]^p)^(1 / p).

    This is torch's definition: x^p keeps its sign, and a negative sum counts as 0 or gives NaN. With `absolute` it is
    the norm of the literature, y[i] = (sum over k of |x[stride * i + k]|^p)^(1 / p).

    Shape:
        (P, *spatial) to (P, *out), out from `shapes.window_grid`.
    """
    if spec.absolute:
        return power_means.norm(planes, spec), None
    kernel_size, stride, _, _, ceil_mode = window_of(spec)
    values = planes.to(_computed_in(planes, 2**63)).contiguous()
    mean = _AVG_POOL[spec.spatial_dims](power(values, spec.norm_type), kernel_size, stride, 0, ceil_mode)
    total = (mean.sign() * mean.abs().relu_()).mul_(math.prod(kernel_size))
    return _to_result_dtype(power(total, 1.0 / spec.norm_type), planes), None


def mixed_pool(planes: torch.Tensor, spec: MixedPool1d | MixedPool2d | MixedPool3d) -> TensorResult:
    """Blend of maximum and mean of each window: y = alpha * max + (1 - alpha) * mean.

    The mean counts padded zeros; the maximum ignores them. With one alpha per channel, the planes are those of whole
    samples.

    Shape:
        (P, *spatial) to (P, *out), out from `shapes.window_grid`.

    Source:
        Lee, Gallagher and Tu, "Generalizing Pooling Functions in Convolutional Neural Networks: Mixed, Gated, and
        Tree", 2016.
    """
    window = window_of(spec)
    widened = planes.to(torch.float32) if planes.dtype in (torch.float16, torch.bfloat16) else planes
    mean = _window_mean(widened, window, True, None)
    maximum = window_max(widened, window).to(mean.dtype)
    of_maximum, of_mean = _shares(spec.weight_of_maximum, mean)
    return _to_result_dtype(maximum.mul_(of_maximum).add_(mean.mul_(of_mean)), planes), None


def adaptive_avg_pool(
    planes: torch.Tensor, spec: AdaptiveAvgPool1d | AdaptiveAvgPool2d | AdaptiveAvgPool3d
) -> TensorResult:
    """Mean of each tile of the plane: y[i] = mean of x[floor(i * L / out)] to x[ceil((i + 1) * L / out) - 1].

    Shape:
        (P, *spatial) to (P, *output_size); None keeps the input's size.
    """
    spatial = planes.shape[1:]
    grid = tile_grid(spec, spatial)
    if grid.count(1) == len(grid):
        return _to_result_dtype(_plane_mean(planes), planes), None
    output_size: Any = grid if len(grid) > 1 else grid[0]
    mean: _Mean = partial(_ADAPTIVE_AVG_POOL[len(grid)], output_size=output_size)
    if len(grid) < 3 and planes.is_floating_point():
        return mean(planes.contiguous()), None
    # adaptive_avg_pool3d adds float16 and bfloat16 in their own dtype, so these need `_exact_mean` too.
    means = _exact_mean(planes, mean, math.prod(spatial), lambda: torch.from_numpy(values_per_tile(spatial, grid)))
    return _to_result_dtype(means, planes), None


def global_avg_pool(planes: torch.Tensor, spec: GlobalSpec) -> TensorResult:
    """Mean of each plane: y = sum of x / number of x.

    Shape:
        (P, *spatial) to (P, 1, ...).

    Source:
        Lin, Chen and Yan, "Network In Network", 2013.
    """
    return _to_result_dtype(_plane_mean(planes), planes), None


def _shares(alpha: float | tuple[float, ...], mean: torch.Tensor) -> tuple[float | torch.Tensor, float | torch.Tensor]:
    """Return the weights of maximum and mean: alpha and 1 - alpha, for each plane if there is one alpha per channel."""
    if isinstance(alpha, float):
        return alpha, 1 - alpha
    alphas = torch.tensor(alpha, dtype=torch.float64).repeat(len(mean) // len(alpha)).view(-1, *(1,) * (mean.ndim - 1))
    return alphas.to(mean.device, mean.dtype), (1 - alphas).to(mean.device, mean.dtype)


def _window_mean(planes: torch.Tensor, window: Window, count_include_pad: bool, divisor: int | None) -> torch.Tensor:
    kernel_size, stride, padding, _, ceil_mode = window
    dims = len(kernel_size)
    divisor_argument = () if dims == 1 else (divisor,)
    if planes.is_floating_point() and (dims < 3 or planes.dtype in _WIDE_FLOATS):
        pool = _AVG_POOL[dims]
        return pool(planes.contiguous(), kernel_size, stride, padding, ceil_mode, count_include_pad, *divisor_argument)

    def mean(floats: torch.Tensor) -> torch.Tensor:
        return _AVG_POOL[dims](floats, kernel_size, stride, padding, ceil_mode, count_include_pad, *divisor_argument)

    divisors = partial(_divisors, window, planes.shape[1:], count_include_pad, divisor)
    return _exact_mean(planes, mean, math.prod(kernel_size), divisors)


def _divisors(window: Window, spatial: tuple[int, ...], count_include_pad: bool, divisor: int | None) -> torch.Tensor:
    """Return the divisor of each window's sum, as float64."""
    if divisor is not None:
        return torch.tensor(divisor, dtype=torch.float64)
    return torch.from_numpy(mean_divisors(window, spatial, count_include_pad))


def _plane_mean(planes: torch.Tensor) -> torch.Tensor:
    count = planes.shape[1:].numel()
    if planes.is_floating_point():
        # float16 and bfloat16 hold neither the sum nor its last bits.
        return _float_mean(planes.contiguous().to(_computed_in(planes, count)))
    return _exact_mean(planes, _float_mean, count, partial(torch.tensor, count, dtype=torch.float64))


def _float_mean(planes: torch.Tensor) -> torch.Tensor:
    """Return the mean of each contiguous plane of float32 or float64, as (P, 1, ...); of no values it is NaN."""
    count = planes.shape[1:].numel()
    if planes.is_cpu and count:
        values = planes.numpy()
        return torch.from_numpy(global_reductions.float_mean(values.shape[1:], values.dtype)(values))
    return planes.view(len(planes), -1).sum(1).div_(count).view(-1, *(1,) * (planes.ndim - 1))


def _exact_mean(
    planes: torch.Tensor, mean: _Mean, max_count: int, divisors: Callable[[], torch.Tensor]
) -> torch.Tensor:
    """Compute `mean` in a dtype in which its sums are exact, or for floats in which they lose only rounding.

    Args:
        planes: of any dtype.
        mean: computes the means of planes of float32 or float64.
        max_count: the number of values in the largest of its sums.
        divisors: returns the divisor of each sum.
    """
    planes = planes.contiguous()
    if planes.dtype != torch.int64:
        return mean(planes.to(_computed_in(planes, max_count)))
    # The sums are integers, so rounding restores what the division inside `mean` took from them. float64 holds the sum
    # of few or small values; otherwise it holds the sums of their upper and their lower 32 bits.
    divisor = divisors().to(planes.device)
    if planes.numel() == 0 or max(int(planes.amax()), -int(planes.amin())) * max_count < INTEGERS_IN_FLOAT64:
        return mean(planes.to(torch.float64)).mul_(divisor).round_().div_(divisor)
    high, low = (mean(half.to(torch.float64)).mul_(divisor).round_() for half in (planes >> 32, planes & 0xFFFFFFFF))
    return (high * 2.0**32 + low) / divisor


def _computed_in(planes: torch.Tensor, max_count: int) -> torch.dtype:
    if planes.dtype in (torch.float32, torch.float16, torch.bfloat16):
        return torch.float32
    if planes.dtype in (torch.uint8, torch.int8) and max_count <= BYTES_IN_FLOAT32:
        return torch.float32
    return torch.float64


def _to_result_dtype(computed: torch.Tensor, planes: torch.Tensor) -> torch.Tensor:
    """Convert what was computed from `planes` to the result's dtype."""
    if computed.dtype is planes.dtype:
        return computed
    return computed.to(planes.dtype if planes.is_floating_point() else torch.float32)
