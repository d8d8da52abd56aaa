"""The operators on windows that read each value of a plane many times, in steps that grow with the kernel's logarithm.

torch reads every value of every window, so the time of its kernels grows with the size of a window. These functions
combine one axis after the other, see `sliding_axis`. Extremes and indices have torch's bits. Sums are added in another
order than torch's, in a tree, which rounds less. Which of the two pools a plane depends only on the plane's shape.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from poolservice.specs import Window
from poolservice_server.pool_stage import SpecResult, Stop
from poolservice_server.pooling.array_types import Array
from poolservice_server.pooling.interop import HALF_DTYPES, narrow, to_tensor, widen
from poolservice_server.pooling.numpy_kernels import index_keys, signed_zeros
from poolservice_server.pooling.numpy_kernels.sliding_axis import (
    Axis,
    Band,
    Combination,
    axes_of,
    bands,
    combine_axis,
    extremes,
    positions,
    sums,
    visits_per_value,
)
from poolservice_server.pooling.sum_dtypes import float_for_sum, sliding_for_sum
from poolservice_server.pooling.thresholds import (
    SLIDING_BAND_VALUES,
    SLIDING_LARGE_PLANE,
    SLIDING_MIN_POSITIONS_SUM,
    SLIDING_MIN_VISITS_EXTREME,
    SLIDING_MIN_VISITS_SUM,
)
from poolservice_server.pooling.torch_operators.power import power
from poolservice_server.pooling.window_geometry import band_divisors, every_window_holds_input, window_of

#: Pools planes (P, *spatial), P > 0, any strides, and stops with WorkStopped if nobody waits for the result.
SlidingKernel = Callable[[Array, Stop], SpecResult]

SlidingFactory = Callable[[Any, tuple[int, ...], np.dtype], SlidingKernel | None]

_FLOAT32, _FLOAT64, _INT64 = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.int64)

# Values of up to this size have keys that hold their positions.
_MAX_KEY_BYTES = 4

# More positions than any axis has.
_WHOLE = 2**62


def max_pool(spec: Any, spatial: tuple[int, ...], _dtype: np.dtype) -> SlidingKernel | None:
    """Maximum of each window, and its index if the spec asks for it."""
    return _extreme_pool(spec, spatial, minimum=False)


def min_pool(spec: Any, spatial: tuple[int, ...], _dtype: np.dtype) -> SlidingKernel | None:
    """Minimum of each window, and its index if the spec asks for it."""
    return _extreme_pool(spec, spatial, minimum=True)


def avg_pool(spec: Any, spatial: tuple[int, ...], dtype: np.dtype) -> SlidingKernel | None:
    """Mean of each window."""
    window = window_of(spec)
    if not _sums_slide(window, spatial):
        return None
    computed_in = dtype if dtype == _FLOAT64 else _FLOAT32
    mean = _mean(window, spatial, dtype, getattr(spec, "divisor_override", None), spec.count_include_pad)

    def pool(part: _Part, stop: Stop) -> tuple[Array, ...]:
        return (_rounded(mean(part, stop).astype(computed_in, copy=False), dtype),)

    return lambda planes, stop: _in_bands(planes, window, pool, stop)


def lp_pool(spec: Any, spatial: tuple[int, ...], dtype: np.dtype) -> SlidingKernel | None:
    """Power sum of each window, by torch's formula: the mean of the powers, times the size of a whole window."""
    window = window_of(spec)
    if not _sums_slide(window, spatial):
        return None
    computed_in = torch.float64 if dtype.kind in "iu" or dtype == _FLOAT64 else torch.float32
    size, exponent = math.prod(window.kernel_size), spec.norm_type
    divide = _divider(window, spatial, None, True)

    def pool(part: _Part, stop: Stop) -> tuple[Array, ...]:
        powers = power(to_tensor(part.values).to(computed_in), exponent).numpy()
        means = torch.from_numpy(divide(_combined(part, powers, 0, sums, stop), part))
        totals = means.sign().mul_(means.abs_()).mul_(size)
        return (_rounded(power(totals, 1 / exponent).numpy(), dtype),)

    return lambda planes, stop: _in_bands(planes, window, pool, stop)


def mixed_pool(spec: Any, spatial: tuple[int, ...], dtype: np.dtype) -> SlidingKernel | None:
    """Blend of maximum and mean of each window."""
    window = window_of(spec)
    if not _sums_slide(window, spatial):
        return None
    computed_in = _FLOAT32 if dtype in HALF_DTYPES else float_for_sum(dtype, math.prod(window.kernel_size))
    mean = _mean(window, spatial, dtype, None, True)

    def pool(part: _Part, stop: Stop) -> tuple[Array, ...]:
        means = mean(part, stop).astype(computed_in, copy=False)
        blended: Array = _extremes(part, stop, minimum=False).astype(computed_in)
        with np.errstate(invalid="ignore", over="ignore"):
            blended *= spec.alpha
            means *= 1 - spec.alpha
            blended += means
        return (_rounded(blended, dtype),)

    return lambda planes, stop: _in_bands(planes, window, pool, stop)


class _Part(NamedTuple):
    """The windows of some planes that lie in one band of the longest axis.

    Attributes:
        values: the part of the planes that they cover, (P, *spatial of the part), any strides.
        spatial: the spatial shape of the whole planes.
        window: the window.
        axes: the windows along each axis.
        bands: their band along each axis.
    """

    values: Array
    spatial: tuple[int, ...]
    window: Window
    axes: list[Axis]
    bands: list[Band]


def _in_bands(
    planes: Array, window: Window, pool: Callable[[_Part, Stop], tuple[Array, ...]], stop: Stop
) -> SpecResult:
    """Pool the planes band by band, so that what is computed meanwhile stays small."""
    spatial = planes.shape[1:]
    axes = axes_of(window, spatial)
    longest = max(range(len(spatial)), key=spatial.__getitem__)
    whole = [next(bands(axis, _WHOLE)) for axis in axes]
    across = planes.size // spatial[longest]
    results: list[Array] = []
    for band in bands(axes[longest], SLIDING_BAND_VALUES // across):
        index = (slice(None),) * (longest + 1)
        part_bands = [*whole[:longest], band, *whole[longest + 1 :]]
        pooled = pool(_Part(planes[(slice(None), *(one.inside for one in part_bands))], spatial, window, axes, part_bands), stop)
        if band.windows.stop - band.windows.start == axes[longest].count:
            return SpecResult(*pooled)
        if not results:
            results = [np.empty((len(planes), *(axis.count for axis in axes)), values.dtype) for values in pooled]
        for result, values in zip(results, pooled, strict=True):
            result[(*index, band.windows)] = values
    return SpecResult(*results)


def _sums_slide(window: Window, spatial: tuple[int, ...]) -> bool:
    large = math.prod(spatial) >= SLIDING_LARGE_PLANE
    return positions(window, spatial) > SLIDING_MIN_POSITIONS_SUM[large] and (
        visits_per_value(window, spatial) >= SLIDING_MIN_VISITS_SUM[large]
    )


def _extreme_pool(spec: Any, spatial: tuple[int, ...], *, minimum: bool) -> SlidingKernel | None:
    window = window_of(spec)
    if visits_per_value(window, spatial) < SLIDING_MIN_VISITS_EXTREME:
        return None

    def pool(part: _Part, stop: Stop) -> tuple[Array, ...]:
        return _indexed_extremes(part, stop, minimum=minimum)

    def pool_values(part: _Part, stop: Stop) -> tuple[Array, ...]:
        return (_extremes(part, stop, minimum=minimum),)

    return lambda planes, stop: _in_bands(planes, window, pool if spec.return_indices else pool_values, stop)


def _extremes(part: _Part, stop: Stop, *, minimum: bool) -> Array:
    values = widen(part.values) if part.values.dtype in HALF_DTYPES else part.values
    combination = extremes(np.minimum if minimum else np.maximum)
    pooled = _combined(part, values, _limit(values.dtype, minimum=minimum), combination, stop)
    if signed_zeros.may_be_wrong(values, pooled):
        return _indexed_extremes(part, stop, minimum=minimum)[0]
    return _rounded(pooled, part.values.dtype)


def _indexed_extremes(part: _Part, stop: Stop, *, minimum: bool) -> tuple[Array, Array]:
    values, maxima = part.values, extremes(np.maximum)
    rows = values.reshape(len(values), -1)
    if values.dtype.itemsize <= _MAX_KEY_BYTES:
        local = np.arange(rows.shape[1]).reshape(values.shape[1:])
        keys = index_keys.keys_with_positions(values, local, minimum=minimum)
        keys = _combined(part, keys, index_keys.NO_KEY, maxima, stop)
        indices = index_keys.positions_of(keys, floats=values.dtype.kind not in "iu")
    else:
        ranks, order = index_keys.ranks_and_order(rows, minimum=minimum)
        keys = _combined(part, ranks.reshape(values.shape), index_keys.NO_KEY, maxima, stop)
        indices = index_keys.positions_in_order(keys.reshape(len(keys), -1), order).reshape(keys.shape)
    empty = None if every_window_holds_input(part.window) else keys == index_keys.NO_KEY
    if empty is not None:
        indices[empty] = 0
    pooled = np.take_along_axis(rows, indices.reshape(len(indices), -1), 1).reshape(indices.shape)
    indices = _positions_in_plane(indices, part)
    if empty is not None:
        pooled[empty] = _limit(values.dtype, minimum=minimum)
        np.copyto(indices, _first_positions(part), where=empty)
    return pooled, indices


def _positions_in_plane(local: Array, part: _Part) -> Array:
    """Return the positions in the whole planes of positions in the part."""
    if part.values.shape[1:] == part.spatial:
        return local
    coordinates = np.unravel_index(local, part.values.shape[1:])
    moved = tuple(index + band.inside.start for index, band in zip(coordinates, part.bands, strict=True))
    return np.ravel_multi_index(moved, part.spatial)  # type: ignore[return-value]


def _first_positions(part: _Part) -> Array:
    """Return where torch starts to read each window: its index if it holds no input, which may lie outside the plane."""
    flat: Array = np.zeros((), np.int64)
    for size, stride, padding, dilation, band in zip(part.spatial, *part.window[1:4], part.bands, strict=True):
        starts = stride * np.arange(band.windows.start, band.windows.stop) - padding
        flat = np.add.outer(flat * size, np.where(starts < 0, starts % dilation, starts))
    return flat


def _limit(dtype: np.dtype, *, minimum: bool) -> float:
    """Return what the extreme of a window without input is."""
    if dtype.kind not in "iu":
        return math.inf if minimum else -math.inf
    return int(np.iinfo(dtype).max if minimum else np.iinfo(dtype).min)


def _mean(
    window: Window, spatial: tuple[int, ...], dtype: np.dtype, divisor: int | None, count_include_pad: bool
) -> Callable[[_Part, Stop], Array]:
    """Return the mean of each window: of floats in float32 or float64, of integers exact in float64."""
    divide = _divider(window, spatial, divisor, count_include_pad)
    if dtype != _INT64:
        added_in = sliding_for_sum(dtype, positions(window, spatial))
        return lambda part, stop: divide(_combined(part, _as_type(part.values, added_in), 0, sums, stop), part)

    def of_int64(part: _Part, stop: Stop) -> Array:
        # int64 holds the sums of the upper and of the lower 32 bits.
        high = _combined(part, part.values >> 32, 0, sums, stop).astype(_FLOAT64)
        high *= 2.0**32
        high += _combined(part, part.values & 0xFFFFFFFF, 0, sums, stop)
        return divide(high, part)

    return of_int64


def _divider(
    window: Window, spatial: tuple[int, ...], override: int | None, count_include_pad: bool
) -> Callable[[Array, _Part], Array]:
    """Return the function that divides the sums of windows by the number of their values, or by `override`."""
    constant = override is not None or not (window.ceil_mode or (any(window.padding) and not count_include_pad))
    size = override or math.prod(window.kernel_size)

    def divide(totals: Array, part: _Part) -> Array:
        divisor: Any = size
        if not constant:
            divisor = band_divisors(window, spatial, count_include_pad, [band.windows for band in part.bands])
        # One rounding, of the quotient: float64 holds the divisor.
        quotients: Array = np.divide(totals, divisor, dtype=_FLOAT64).astype(_FLOAT32 if totals.dtype == _FLOAT32 else _FLOAT64, copy=False)
        # torch adds the quotient to zero, and 0.0 + -0.0 is 0.0.
        quotients += 0
        return quotients

    return divide


def _combined(part: _Part, values: Array, padding: float, combination: Combination, stop: Stop) -> Array:
    """Return the combination of each window of the part, whose values are given in the type to combine in."""
    outer, inner = values.size, 1
    for axis, band in zip(reversed(part.axes), reversed(part.bands), strict=True):
        size = band.inside.stop - band.inside.start
        outer //= size
        if axis.kernel > 1 or axis.count != axis.size:
            values = combine_axis(values.reshape(outer, size, inner), axis, band, padding, combination, stop)
        inner *= band.windows.stop - band.windows.start
    return values.reshape(len(part.values), *(band.windows.stop - band.windows.start for band in part.bands))


def _as_type(values: Array, dtype: np.dtype) -> Array:
    return widen(values) if values.dtype in HALF_DTYPES else values.astype(dtype, copy=False)


def _rounded(values: Array, dtype: np.dtype) -> Array:
    """Round what was computed from planes of `dtype` to the dtype of the result."""
    if dtype in HALF_DTYPES:
        return narrow(values, dtype)
    return values.astype(_FLOAT32, copy=False) if dtype.kind in "iu" and values.dtype.kind == "f" else values
