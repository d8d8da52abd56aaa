"""Kernels of tiles, the windows of the adaptive operators: combine the rows of each tile, then the columns.

Small tiles are gathered instead. A kernel returns (P, *grid) for planes (P, *spatial). A mean adds the values of a
plane in an order that depends only on the plane's shape.
"""

import math

import numpy as np

from poolservice_server.kernel_thresholds import (
    CACHED_COLUMNS,
    CACHED_TILES,
    MAX_WIDENED_VALUES,
    TILE_GATHER_MAX_DISJOINT,
    TILE_GATHER_MAX_EXTREME,
    TILE_GATHER_MAX_OVERLAPPING,
    TILE_MAX_ROWS,
)
from poolservice_server.pooling.array_types import Array, CompleteKernel
from poolservice_server.pooling.numpy_kernels import gather, global_reductions
from poolservice_server.pooling.window_geometry import largest_tile, values_per_tile


def mean(
    spatial: tuple[int, ...], grid: tuple[int, ...], dtype: np.dtype, *, integers: bool = False
) -> CompleteKernel | None:
    """Return the kernel of the mean of each tile; None if torch must pool such planes.

    Args:
        spatial: the planes' spatial shape.
        grid: the number of tiles in each dimension.
        dtype: float32 or float64, in which the means are computed.
        integers: whether the planes hold integers and the float holds the sum of each tile, so that any order of adding
            gives the same result.
    """
    if not _are_cacheable(spatial, grid):
        return None
    counts = values_per_tile(spatial, grid).astype(dtype)
    disjoint = all(size % tiles == 0 for size, tiles in zip(spatial, grid, strict=True))
    gather_up_to = TILE_GATHER_MAX_DISJOINT if disjoint else TILE_GATHER_MAX_OVERLAPPING
    if (counts == counts.flat[0]).all() and counts.sum() <= gather_up_to:
        return _gathered_mean(spatial, grid, dtype, counts.flat[0])
    (height, width), (down, across) = (1, *spatial)[-2:], (1, *grid)[-2:]
    if len(grid) > 2 or down > TILE_MAX_ROWS:
        return None
    spans, columns = _spans(height, down), _columns(width, across, zero_padding=True)

    def run(planes: Array) -> Array:
        if integers and height * width <= MAX_WIDENED_VALUES:
            planes = planes.astype(dtype)
        values, inner = _as_rows(planes, height, width, keep_interleaved=integers)
        outer = len(values)
        # Unlike a sum, einsum does not warn about infinities.
        if disjoint and values.dtype == dtype:
            tiles = np.einsum("phaw->phw", values.reshape(outer, down, -1, width * inner))
            tiles = tiles.reshape(outer, down, across, -1, inner)
        else:
            # A column of zeros behind the others fills up narrower tiles.
            sums = np.zeros((outer, down, (width + 1) * inner), dtype)
            for i, (start, end) in enumerate(spans):
                np.einsum("phw->pw", values[:, start:end].astype(dtype, copy=False), out=sums[:, i, : width * inner])
            tiles = sums.reshape(outer, down, width + 1, inner).take(columns, 2, None, "clip")
        total = _as_planes(np.einsum("phwki->phwi", tiles), grid)
        np.divide(total, counts, total)
        return total

    return run


def extreme(spatial: tuple[int, ...], grid: tuple[int, ...], combine: np.ufunc) -> CompleteKernel | None:
    """Return the kernel of the maximum or minimum of each tile; None if torch must pool such planes.

    A zero may have the sign of any zero in the tile.
    """
    if not _are_cacheable(spatial, grid):
        return None
    if largest_tile(spatial, grid) * math.prod(grid) <= TILE_GATHER_MAX_EXTREME:
        indices = gather.grid_indices(_axes(spatial, grid), spatial, zero_padding=False)
        return lambda planes: gather.window_extreme(planes, indices, combine)
    (height, width), (down, across) = (1, *spatial)[-2:], (1, *grid)[-2:]
    if len(grid) > 2 or down > TILE_MAX_ROWS:
        return None
    spans, columns = _spans(height, down), _columns(width, across, zero_padding=False)

    def run(planes: Array) -> Array:
        values, inner = _as_rows(planes, height, width, keep_interleaved=True)
        extremes = np.empty((len(values), down, width * inner), values.dtype)
        for i, (start, end) in enumerate(spans):
            combine.reduce(values[:, start:end], 1, out=extremes[:, i])
        tiles = extremes.reshape(len(values), down, width, inner).take(columns, 2, None, "clip")
        return _as_planes(combine.reduce(tiles, 3), grid)

    return run


def _are_cacheable(spatial: tuple[int, ...], grid: tuple[int, ...]) -> bool:
    # Tiles overlap by at most one value on each side.
    return math.prod(grid) <= CACHED_TILES and spatial[-1] + 2 * grid[-1] <= CACHED_COLUMNS


def _as_rows(planes: Array, height: int, width: int, *, keep_interleaved: bool) -> tuple[Array, int]:
    """Return the planes as (outer, height, width * inner), and inner.

    Inner is the number of planes if they are interleaved and stay so, else 1.
    """
    if keep_interleaved and global_reductions.is_interleaved(planes):
        return np.moveaxis(planes, 0, -1).reshape(1, height, -1), len(planes)
    return np.ascontiguousarray(planes).reshape(len(planes), height, width), 1


def _as_planes(values: Array, grid: tuple[int, ...]) -> Array:
    """Return (outer, down, across, inner) as contiguous planes (P, *grid)."""
    if values.shape[-1] == 1:
        return values.reshape(len(values), *grid)
    return np.ascontiguousarray(np.moveaxis(values[0], -1, 0)).reshape(-1, *grid)


def _gathered_mean(spatial: tuple[int, ...], grid: tuple[int, ...], dtype: np.dtype, count: float) -> CompleteKernel:
    # Tile by tile, so that the values of a tile are added contiguously.
    flat = np.ascontiguousarray(gather.grid_indices(_axes(spatial, grid), spatial, zero_padding=True).flat.T)
    size = math.prod(spatial)

    def run(planes: Array) -> Array:
        gathered = planes.reshape(len(planes), size).take(flat, 1, None, "clip")
        total: Array = np.einsum("pwk->pw", gathered.astype(dtype, copy=False))
        np.divide(total, count, total)
        return total.reshape(len(planes), *grid)

    return run


def _spans(size: int, count: int) -> list[tuple[int, int]]:
    """Return where each of `count` tiles of `size` values starts and ends."""
    return [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]


def _axis(size: int, count: int) -> Array:
    """Return the positions in each tile, (longest tile, tiles), -1 behind the end of a shorter one."""
    starts, ends = np.array(_spans(size, count)).T
    covered = starts + np.arange((ends - starts).max())[:, None]
    return np.where(covered < ends, covered, -1)


def _axes(spatial: tuple[int, ...], grid: tuple[int, ...]) -> list[Array]:
    return [_axis(size, count) for size, count in zip(spatial, grid, strict=True)]


def _columns(width: int, count: int, *, zero_padding: bool) -> Array:
    """Return the columns of each tile, (tiles, longest tile); see `gather.grid_indices` for what fills shorter ones."""
    return np.ascontiguousarray(gather.grid_indices([_axis(width, count)], (width,), zero_padding).flat.T)
