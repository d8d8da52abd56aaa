"""Windows that tile a plane, in numpy: the rows of each are combined first, then the columns of what comes of them.

Small ones are gathered instead. On the processor only. A mean adds a plane's values in an order that depends on nothing
but the plane's shape. What is given back pools planes of one shape, and is made once for it.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from poolservice_server.pooling.numpy_kernels import gather, reductions
from poolservice_server.pooling.windows import adaptive_counts, largest_tile

Array = np.ndarray[Any, Any]
Tiled = Callable[[Array], Array]

# Values in all tiles of a plane up to which gathering them is sooner: where an extreme is looked for, where tiles that
# are alike overlap, and where they do not.
_FEW_COMPARED = 4096
_FEW_OVERLAPPING = 1024
_FEW_APART = 512

# What is kept of tiles is as large as there are many, for each kind of planes.
_MOST_TILES = 2**12

# More rows of tiles take longer than torch's walk.
_MOST_ROWS = 32


def mean(spatial: tuple[int, ...], sizes: tuple[int, ...], dtype: np.dtype, *, whole: bool = False) -> Tiled | None:
    """What gives the mean of each tile of planes (P, *spatial) of this float; None where torch is to do that.

    Args:
        spatial: the planes' shape.
        sizes: how many tiles there are in each dimension.
        dtype: float32 or float64.
        whole: whether values are whole numbers of which the float holds each tile's sum, so that the order of adding
            is free.
    """
    if math.prod(sizes) > _MOST_TILES:
        return None
    counts = adaptive_counts(spatial, sizes).astype(dtype)
    apart = all(size % tiles == 0 for size, tiles in zip(spatial, sizes, strict=True))
    if (counts == counts.flat[0]).all() and counts.sum() <= (_FEW_APART if apart else _FEW_OVERLAPPING):
        return _gathered_mean(spatial, sizes, counts.flat[0])
    (height, width), (down, across) = (1, *spatial)[-2:], (1, *sizes)[-2:]
    if len(sizes) > 2 or down > _MOST_ROWS:
        return None
    rows, columns = _spans(height, down), _columns(width, across, once=True)

    def pooled(planes: Array) -> Array:
        values, inner = _laid_out(planes, height, width, kept=whole)
        outer = len(values)
        # No sum by einsum warns of infinities.
        if apart:
            tiles = np.einsum("phaw->phw", values.reshape(outer, down, -1, width * inner))
            tiles = tiles.reshape(outer, down, across, -1, inner)
        else:
            # Behind the columns one of zeros, which fills narrower tiles up.
            sums = np.zeros((outer, down, (width + 1) * inner), dtype)
            for i, (start, end) in enumerate(rows):
                np.einsum("phw->pw", values[:, start:end], out=sums[:, i, : width * inner])
            tiles = sums.reshape(outer, down, width + 1, inner).take(columns, 2, None, "clip")
        total = _as_planes(np.einsum("phwki->phwi", tiles), sizes)
        np.divide(total, counts, total)
        return total

    return pooled


def extreme(spatial: tuple[int, ...], sizes: tuple[int, ...], combine: np.ufunc) -> Tiled | None:
    """What gives the extreme of each tile of planes (P, *spatial); None where torch is to do that.

    Of several zeros it is not always the one that counts.
    """
    if math.prod(sizes) > _MOST_TILES:
        return None
    if largest_tile(spatial, sizes) * math.prod(sizes) <= _FEW_COMPARED:
        places = gather.laid(_axes(spatial, sizes), spatial, once=False)
        return lambda planes: gather.window_extreme(planes, places, combine)
    (height, width), (down, across) = (1, *spatial)[-2:], (1, *sizes)[-2:]
    if len(sizes) > 2 or down > _MOST_ROWS:
        return None
    rows, columns = _spans(height, down), _columns(width, across, once=False)

    def pooled(planes: Array) -> Array:
        values, inner = _laid_out(planes, height, width, kept=True)
        extremes = np.empty((len(values), down, width * inner), values.dtype)
        for i, (start, end) in enumerate(rows):
            combine.reduce(values[:, start:end], 1, out=extremes[:, i])
        tiles = extremes.reshape(len(values), down, width, inner).take(columns, 2, None, "clip")
        return _as_planes(combine.reduce(tiles, 3), sizes)

    return pooled


def _laid_out(planes: Array, height: int, width: int, *, kept: bool) -> tuple[Array, int]:
    """As (outer, height, width * inner), and inner: 1, or where order is kept the number of interleaved planes."""
    if kept and reductions.interleaved(planes):
        return np.moveaxis(planes, 0, -1).reshape(1, height, -1), len(planes)
    return np.ascontiguousarray(planes).reshape(len(planes), height, width), 1


def _as_planes(pooled: Array, sizes: tuple[int, ...]) -> Array:
    """(outer, down, across, inner) as planes (P, *sizes), contiguous."""
    if pooled.shape[-1] == 1:
        return pooled.reshape(len(pooled), *sizes)
    return np.ascontiguousarray(np.moveaxis(pooled[0], -1, 0)).reshape(-1, *sizes)


def _gathered_mean(spatial: tuple[int, ...], sizes: tuple[int, ...], count: float) -> Tiled:
    # Tile by tile: a tile is added in one run.
    at = np.ascontiguousarray(gather.laid(_axes(spatial, sizes), spatial, once=True).at.T)
    size = math.prod(spatial)

    def pooled(planes: Array) -> Array:
        total: Array = np.einsum("pwk->pw", planes.reshape(len(planes), size).take(at, 1, None, "clip"))
        np.divide(total, count, total)
        return total.reshape(len(planes), *sizes)

    return pooled


def _spans(size: int, count: int) -> list[tuple[int, int]]:
    """Where each of `count` tiles of `size` values begins and ends."""
    return [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]


def _axis(size: int, count: int) -> Array:
    """The positions in each tile, (longest tile, tiles), -1 behind the end of a shorter one."""
    starts, ends = np.array(_spans(size, count)).T
    reached = starts + np.arange((ends - starts).max())[:, None]
    return np.where(reached < ends, reached, -1)


def _axes(spatial: tuple[int, ...], sizes: tuple[int, ...]) -> list[Array]:
    return [_axis(size, count) for size, count in zip(spatial, sizes, strict=True)]


def _columns(width: int, count: int, *, once: bool) -> Array:
    """The columns of each tile, (tiles, longest tile); see `gather.laid` for what fills up a shorter one."""
    return np.ascontiguousarray(gather.laid([_axis(width, count)], (width,), once).at.T)
