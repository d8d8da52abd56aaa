"""Windows by gathering: take the values of each window out of their plane, then combine them.

Combining slices of whole planes takes ten to twenty calls, gathering two, so it is faster for small planes. It reads no
value that no window holds. A sum has torch's bits, as a sum by slices has.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from poolservice.specs import Window
from poolservice_server import operator_shapes
from poolservice_server.cache import cached
from poolservice_server.kernel_thresholds import (
    CACHED_GATHER_POSITIONS,
    GATHER_MANY_PLANES,
    GATHER_MAX_POSITIONS,
)
from poolservice_server.pooling.array_types import Array


class GatherIndices(NamedTuple):
    """The indices of the values of every window in a flattened plane.

    Attributes:
        flat: (positions in a window, windows): for each position in a window its flat index, one per window.
        grid: the windows' spatial shape.
        padded: True if some indices point to the zero that `window_sum` appends to the plane, for the padding.
    """

    flat: Array
    grid: tuple[int, ...]
    padded: bool


def are_cacheable(window: Window, spatial: tuple[int, ...]) -> bool:
    """Return True if the windows of a plane are few and small enough for their indices to be cached."""
    values = math.prod(window.kernel_size) * math.prod(operator_shapes.window_grid(window, spatial))
    return 1 < values <= CACHED_GATHER_POSITIONS


@cached("gather_indices")
def window_indices(window: Window, spatial: tuple[int, ...], zero_padding: bool) -> GatherIndices:
    """Return the indices of the windows of a plane; see `are_cacheable` and `grid_indices`."""
    axes = []
    for d, (size, count) in enumerate(zip(spatial, operator_shapes.window_grid(window, spatial), strict=True)):
        kernel, stride, padding, dilation = (values[d] for values in window[:4])
        covered = dilation * np.arange(kernel)[:, None] + stride * np.arange(count) - padding
        axes.append(np.where(covered < size, covered, -1))
    return grid_indices(axes, spatial, zero_padding)


def grid_indices(axes: Sequence[Array], spatial: tuple[int, ...], zero_padding: bool) -> GatherIndices:
    """Return the indices of windows that form a grid.

    Args:
        axes: for each dimension the positions that each window covers there, (values, windows), negative outside the
            plane. Every window covers at least one value.
        spatial: the planes' spatial shape.
        zero_padding: whether positions outside the plane read zero, as a sum needs it. If not, they repeat the first
            value of their window, which changes no extreme.
    """
    dims = len(axes)
    indices: Array = np.zeros((1,) * 2 * dims, np.intp)
    inside: Array = np.ones((1,) * 2 * dims, np.bool_)
    for d, (size, covered) in enumerate(zip(spatial, axes, strict=True)):
        shape = [1] * 2 * dims
        shape[d], shape[dims + d] = covered.shape
        indices = indices * size + covered.reshape(shape)
        inside = inside & (covered >= 0).reshape(shape)
    grid = indices.shape[dims:]
    flat, inside = (values.reshape(-1, math.prod(grid)) for values in (indices, inside))
    first = np.take_along_axis(flat, inside.argmax(0)[None], 0)
    flat = np.where(inside, flat, math.prod(spatial) if zero_padding else first)
    return GatherIndices(flat, grid, zero_padding and not inside.all())


def window_extreme(planes: Array, indices: GatherIndices, combine: np.ufunc) -> Array:
    """Return the extreme of each window; a zero may have the sign of any zero in the window."""
    rows = planes.reshape(len(planes), math.prod(planes.shape[1:]))
    positions, windows = indices.flat.shape
    if len(planes) >= GATHER_MANY_PLANES and positions <= GATHER_MAX_POSITIONS:
        extremes = _position_by_position(rows, indices.flat, combine)
    elif positions > windows:
        # Reduce along the longer axis, contiguously.
        extremes = combine.reduce(rows.take(indices.flat.T, 1, None, "clip"), 2)
    else:
        extremes = combine.reduce(rows.take(indices.flat, 1, None, "clip"), 1)
    return extremes.reshape(len(planes), *indices.grid)


def window_sum(planes: Array, indices: GatherIndices) -> Array:
    """Return the sum of each window, in the planes' dtype, added in row-major order; a zero may have either sign."""
    size = math.prod(planes.shape[1:])
    rows = planes.reshape(len(planes), size)
    if indices.padded:
        padded = np.zeros((len(planes), size + 1), planes.dtype)
        padded[:, :size] = rows
        rows = padded
    if len(planes) < GATHER_MANY_PLANES and indices.flat.shape[1] > 1:
        # einsum adds one position after the other to zeros if a plane has several windows. Unlike a reduction it does
        # not warn about infinities, and so needs no errstate.
        total: Array = np.einsum("pkw->pw", rows.take(indices.flat, 1, None, "clip"))
    else:
        with np.errstate(invalid="ignore", over="ignore"):
            total = _position_by_position(rows, indices.flat, np.add)
    return total.reshape(len(planes), *indices.grid)


def _position_by_position(rows: Array, flat: Array, combine: np.ufunc) -> Array:
    combined: Array = rows.take(flat[0], 1, None, "clip")
    taken = np.empty_like(combined)
    for position in flat[1:]:
        rows.take(position, 1, taken, "clip")
        combine(combined, taken, out=combined)
    return combined
