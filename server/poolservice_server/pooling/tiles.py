"""Windows that tile a plane, in numpy: the rows of each are combined first, then the columns of what comes of them.

Small ones are gathered instead. On the processor only. A mean adds a plane's values in an order that depends on nothing
but the plane's shape. What is given back pools planes of one shape, and is made once for it.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from poolservice_server.pooling import folds, gathers
from poolservice_server.pooling.windows import adaptive_counts

Array = np.ndarray[Any, Any]
Tiled = Callable[[Array], Array]

# Values in all tiles of a plane up to which gathering them is sooner.
_FEW = 1024


def mean(spatial: tuple[int, ...], sizes: tuple[int, ...], dtype: np.dtype) -> Tiled | None:
    """What gives the mean of each tile of planes (P, *spatial) of this float; None where torch is to do that."""
    counts = adaptive_counts(spatial, sizes).numpy().astype(dtype)
    alike = bool((counts == counts.flat[0]).all())
    if alike and counts.sum() <= _FEW:
        return _gathered_mean(spatial, sizes, counts.flat[0])
    if len(sizes) > 2:
        return None
    height, width = (1, *spatial)[-2:]
    down, across = (1, *sizes)[-2:]
    rows, columns = _spans(height, down), _columns(width, across, once=True)

    def pooled(planes: Array) -> Array:
        values = np.ascontiguousarray(planes).reshape(len(planes), height, width)
        # Behind the columns one of zeros, which fills narrower tiles up. No sum here warns of infinities.
        sums = np.zeros((len(planes), down, width + 1), dtype)
        for i, (start, end) in enumerate(rows):
            np.einsum("phw->pw", values[:, start:end], out=sums[:, i, :-1])
        total: Array = np.einsum("phwk->phw", sums.take(columns, 2, None, "clip")).reshape(len(planes), *sizes)
        np.divide(total, counts, total)
        return total

    return pooled


def extreme(spatial: tuple[int, ...], sizes: tuple[int, ...], combine: np.ufunc) -> Tiled | None:
    """What gives the extreme of each tile of planes (P, *spatial); None where torch is to do that.

    Of several zeros it is not always the one that counts.
    """
    counts = adaptive_counts(spatial, sizes).numpy()
    if counts.max() * counts.size <= _FEW:
        axes = [_axis(size, count) for size, count in zip(spatial, sizes, strict=True)]
        places = gathers.laid(axes, spatial, once=False)
        return lambda planes: gathers.window_extreme(planes, places, combine)
    if len(sizes) > 2:
        return None
    height, width = (1, *spatial)[-2:]
    down, across = (1, *sizes)[-2:]
    rows, columns = _spans(height, down), _columns(width, across, once=False)

    def pooled(planes: Array) -> Array:
        inner = len(planes) if folds.interleaved(planes) else 1
        values = np.moveaxis(planes, 0, -1) if inner > 1 else np.ascontiguousarray(planes)
        outer = len(planes) // inner
        values = values.reshape(outer, height, width * inner)
        extremes = np.empty((outer, down, width * inner), values.dtype)
        for i, (start, end) in enumerate(rows):
            combine.reduce(values[:, start:end], 1, out=extremes[:, i])
        taken = extremes.reshape(outer, down, width, inner).take(columns, 2, None, "clip")
        combined = combine.reduce(taken, 3)
        return np.ascontiguousarray(np.moveaxis(combined, -1, 1)).reshape(len(planes), *sizes)

    return pooled


def _gathered_mean(spatial: tuple[int, ...], sizes: tuple[int, ...], count: float) -> Tiled:
    axes = [_axis(size, tiles) for size, tiles in zip(spatial, sizes, strict=True)]
    # Tile by tile: a tile is added in one run.
    at = np.ascontiguousarray(gathers.laid(axes, spatial, once=True).at.T)
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


def _columns(width: int, count: int, *, once: bool) -> Array:
    """The columns of each tile, (tiles, longest tile); see `gathers.laid` for what fills up a shorter one."""
    return np.ascontiguousarray(gathers.laid([_axis(width, count)], (width,), once).at.T)
