"""Extremes of windows that read each value of a plane many times, with torch's bits and torch's indices.

torch reads every value of every window, so its time grows with the size of a window. These kernels combine one axis
after the other, see `sliding_axis`. Indices are found as maxima of keys that hold them, see `index_keys`.
"""

import math
from typing import Any

import numpy as np

from poolservice_server.kernel_thresholds import SLIDING_MIN_VISITS_EXTREME
from poolservice_server.pool_stage import Stop
from poolservice_server.pooling.array_types import Array
from poolservice_server.pooling.interop import HALF_DTYPES, widen
from poolservice_server.pooling.numpy_kernels import index_keys, signed_zeros
from poolservice_server.pooling.numpy_kernels.sliding_axis import extremes, visits_per_value
from poolservice_server.pooling.numpy_kernels.sliding_parts import Part, SlidingKernel, combined, in_bands, rounded
from poolservice_server.pooling.window_geometry import every_window_holds_input, window_of

# Values of up to this size have keys that hold their positions.
_MAX_KEY_BYTES = 4


def max_pool(spec: Any, spatial: tuple[int, ...], _dtype: np.dtype) -> SlidingKernel | None:
    """Maximum of each window, and its index if the spec asks for it."""
    return _extreme_pool(spec, spatial, minimum=False)


def min_pool(spec: Any, spatial: tuple[int, ...], _dtype: np.dtype) -> SlidingKernel | None:
    """Minimum of each window, and its index if the spec asks for it."""
    return _extreme_pool(spec, spatial, minimum=True)


def _extreme_pool(spec: Any, spatial: tuple[int, ...], *, minimum: bool) -> SlidingKernel | None:
    window = window_of(spec)
    if visits_per_value(window, spatial) < SLIDING_MIN_VISITS_EXTREME:
        return None

    def pool(part: Part, stop: Stop) -> tuple[Array, ...]:
        return _indexed_extremes(part, stop, minimum=minimum)

    def pool_values(part: Part, stop: Stop) -> tuple[Array, ...]:
        return (window_extremes(part, stop, minimum=minimum),)

    return lambda planes, stop: in_bands(planes, window, pool if spec.return_indices else pool_values, stop)


def window_extremes(part: Part, stop: Stop, *, minimum: bool) -> Array:
    """Return the maximum or minimum of each window of the part."""
    values = widen(part.values) if part.values.dtype in HALF_DTYPES else part.values
    combination = extremes(np.minimum if minimum else np.maximum)
    pooled = combined(part, values, _limit(values.dtype, minimum=minimum), combination, stop)
    if signed_zeros.may_be_wrong(values, pooled):
        return _indexed_extremes(part, stop, minimum=minimum)[0]
    return rounded(pooled, part.values.dtype)


def _indexed_extremes(part: Part, stop: Stop, *, minimum: bool) -> tuple[Array, Array]:
    values, maxima = part.values, extremes(np.maximum)
    rows = values.reshape(len(values), -1)
    if values.dtype.itemsize <= _MAX_KEY_BYTES:
        local = np.arange(rows.shape[1]).reshape(values.shape[1:])
        keys = index_keys.keys_with_positions(values, local, minimum=minimum)
        keys = combined(part, keys, index_keys.NO_KEY, maxima, stop)
        indices = index_keys.positions_of(keys, floats=values.dtype.kind not in "iu")
    else:
        ranks, order = index_keys.ranks_and_order(rows, minimum=minimum)
        keys = combined(part, ranks.reshape(values.shape), index_keys.NO_KEY, maxima, stop)
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


def _positions_in_plane(local: Array, part: Part) -> Array:
    """Return the positions in the whole planes of positions in the part."""
    if part.values.shape[1:] == part.spatial:
        return local
    coordinates = np.unravel_index(local, part.values.shape[1:])
    moved = tuple(index + band.inside.start for index, band in zip(coordinates, part.bands, strict=True))
    positions: Array = np.ravel_multi_index(moved, part.spatial)
    return positions


def _first_positions(part: Part) -> Array:
    """Return where torch starts to read each window, maybe outside the plane: its index if it holds no input."""
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
