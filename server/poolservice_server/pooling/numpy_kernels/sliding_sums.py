"""Means and power sums of windows that read each value of a plane many times.

torch reads every value of every window, so its time grows with the size of a window. These kernels add blocks of
values along one axis after the other, see `sliding_axis`: in another order than torch, in a tree, which rounds less.
Whether they or other kernels pool a plane depends only on its shape, so that a result never depends on its batch-mates.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from poolservice.specs import Window
from poolservice_server.kernel_thresholds import (
    SLIDING_LARGE_PLANE,
    SLIDING_MIN_POSITIONS_SUM,
    SLIDING_MIN_VISITS_SUM,
)
from poolservice_server.pool_stage import Stop
from poolservice_server.pooling.array_types import Array
from poolservice_server.pooling.interop import HALF_DTYPES, to_tensor, widen
from poolservice_server.pooling.numpy_kernels.sliding_axis import positions, sums, visits_per_value
from poolservice_server.pooling.numpy_kernels.sliding_extremes import window_extremes
from poolservice_server.pooling.numpy_kernels.sliding_parts import Part, SlidingKernel, combined, in_bands, rounded
from poolservice_server.pooling.numpy_kernels.window_kernels import shares
from poolservice_server.pooling.sum_dtypes import float_for_sum, sliding_for_sum
from poolservice_server.pooling.torch_operators.power import power
from poolservice_server.pooling.window_geometry import band_divisors, window_of

_FLOAT32, _FLOAT64, _INT64 = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.int64)


def avg_pool(spec: Any, spatial: tuple[int, ...], dtype: np.dtype) -> SlidingKernel | None:
    """Mean of each window."""
    window = window_of(spec)
    if not _sums_slide(window, spatial, widens=dtype not in (_FLOAT32, _FLOAT64)):
        return None
    computed_in = dtype if dtype == _FLOAT64 else _FLOAT32
    mean = _mean(window, spatial, dtype, getattr(spec, "divisor_override", None), spec.count_include_pad)

    def pool(part: Part, stop: Stop) -> tuple[Array, ...]:
        return (rounded(mean(part, stop).astype(computed_in, copy=False), dtype),)

    return lambda planes, stop: in_bands(planes, window, pool, stop)


def lp_pool(spec: Any, spatial: tuple[int, ...], dtype: np.dtype) -> SlidingKernel | None:
    """Power sum of each window, by torch's formula: the mean of the powers, times the size of a whole window."""
    window = window_of(spec)
    if not _sums_slide(window, spatial, widens=True):
        return None
    computed_in = torch.float64 if dtype.kind in "iu" or dtype == _FLOAT64 else torch.float32
    size, exponent = math.prod(window.kernel_size), spec.norm_type
    divide = _divider(window, spatial, None, True)

    def pool(part: Part, stop: Stop) -> tuple[Array, ...]:
        powers = power(to_tensor(part.values).to(computed_in), exponent).numpy()
        means = torch.from_numpy(divide(combined(part, powers, 0, sums, stop), part))
        totals = means.sign().mul_(means.abs_()).mul_(size)
        return (rounded(power(totals, 1 / exponent).numpy(), dtype),)

    return lambda planes, stop: in_bands(planes, window, pool, stop)


def mixed_pool(spec: Any, spatial: tuple[int, ...], dtype: np.dtype) -> SlidingKernel | None:
    """Blend of maximum and mean of each window."""
    window = window_of(spec)
    if not _sums_slide(window, spatial, widens=dtype not in (_FLOAT32, _FLOAT64)):
        return None
    computed_in = _FLOAT32 if dtype in HALF_DTYPES else float_for_sum(dtype, math.prod(window.kernel_size))
    mean = _mean(window, spatial, dtype, None, True)

    def pool(part: Part, stop: Stop) -> tuple[Array, ...]:
        means = mean(part, stop).astype(computed_in, copy=False)
        blended: Array = window_extremes(part, stop, minimum=False).astype(computed_in)
        with np.errstate(invalid="ignore", over="ignore"):
            of_maximum, of_mean = shares(spec.weight_of_maximum, means)
            blended *= of_maximum
            means *= of_mean
            blended += means
        return (rounded(blended, dtype),)

    return lambda planes, stop: in_bands(planes, window, pool, stop)


def _sums_slide(window: Window, spatial: tuple[int, ...], *, widens: bool) -> bool:
    """Return True if these kernels pool such planes; `widens` says whether other kernels convert whole planes first."""
    large = math.prod(spatial) >= SLIDING_LARGE_PLANE
    if large and widens:
        return True
    return positions(window, spatial) > SLIDING_MIN_POSITIONS_SUM[large] and (
        visits_per_value(window, spatial) >= SLIDING_MIN_VISITS_SUM[large]
    )


def _mean(
    window: Window, spatial: tuple[int, ...], dtype: np.dtype, divisor: int | None, count_include_pad: bool
) -> Callable[[Part, Stop], Array]:
    """Return the mean of each window: of floats in float32 or float64, of integers exact in float64."""
    divide = _divider(window, spatial, divisor, count_include_pad)
    if dtype != _INT64:
        added_in = sliding_for_sum(dtype, positions(window, spatial))
        return lambda part, stop: divide(combined(part, _as_type(part.values, added_in), 0, sums, stop), part)

    def of_int64(part: Part, stop: Stop) -> Array:
        # int64 holds the sums of the upper and of the lower 32 bits.
        high = combined(part, part.values >> 32, 0, sums, stop).astype(_FLOAT64)
        high *= 2.0**32
        high += combined(part, part.values & 0xFFFFFFFF, 0, sums, stop)
        return divide(high, part)

    return of_int64


def _divider(
    window: Window, spatial: tuple[int, ...], override: int | None, count_include_pad: bool
) -> Callable[[Array, Part], Array]:
    """Return the function that divides the sums of windows by the number of their values, or by `override`."""
    constant = override is not None or not (window.ceil_mode or (any(window.padding) and not count_include_pad))
    size = override or math.prod(window.kernel_size)

    def divide(totals: Array, part: Part) -> Array:
        divisor: Any = size
        if not constant:
            divisor = band_divisors(window, spatial, count_include_pad, [band.windows for band in part.bands])
        # One rounding, of the quotient: float64 holds the divisor.
        quotients: Array = np.divide(totals, divisor, dtype=_FLOAT64).astype(
            _FLOAT32 if totals.dtype == _FLOAT32 else _FLOAT64, copy=False
        )
        # torch adds the quotient to zero, and 0.0 + -0.0 is 0.0.
        quotients += 0
        return quotients

    return divide


def _as_type(values: Array, dtype: np.dtype) -> Array:
    return widen(values) if values.dtype in HALF_DTYPES else values.astype(dtype, copy=False)
