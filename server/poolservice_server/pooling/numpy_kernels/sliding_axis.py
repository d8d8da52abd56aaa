"""Windows of any size along one axis, in a number of steps that grows with the logarithm of the kernel.

Two neighboring blocks of 2^j values make a block of 2^(j+1). An extreme of a window is that of two blocks, which
together cover the window and may overlap. A sum adds disjoint blocks, one for each binary digit of the kernel size.
It never subtracts, so nothing cancels, and an infinity or a NaN affects only the windows that hold it.

The values are processed in blocks that fit into a core's cache.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from poolservice.specs import Window
from poolservice_server import operator_shapes
from poolservice_server.kernel_thresholds import SLIDING_BLOCK_VALUES
from poolservice_server.pool_stage import Stop, WorkStopped
from poolservice_server.pooling.array_types import Array

#: Writes the combination of each window into the last argument: (axis, block (outer, length, inner) contiguous, starts
#: of the windows in the block, out (outer, windows, inner)).
Combination = Callable[["Axis", Array, "slice | Array", Array], None]


class Axis(NamedTuple):
    """The windows along one axis.

    Attributes:
        size: the number of values.
        kernel: the number of values in a window, without those that always lie beyond the input.
        dilation: the distance between a window's values.
        before: the number of positions before the first value that windows reach.
        window_count: the number of windows.
        starts: the position of the first value of each window, counted from `before` positions before the input.
    """

    size: int
    kernel: int
    dilation: int
    before: int
    window_count: int
    starts: slice | Array

    @property
    def extent(self) -> int:
        """The number of positions from the first to the last value of a window."""
        return self.dilation * (self.kernel - 1) + 1


class Band(NamedTuple):
    """Some neighboring windows along an axis, and the positions that they cover.

    Attributes:
        windows: the windows, as a part of the axis's.
        starts: the position of the first value of each of them, counted from the band's first position.
        before: how many positions of the band lie before the input.
        inside: the part of the input that the band covers.
        length: the number of positions, before, in and behind the input.
    """

    windows: slice
    starts: slice | Array
    before: int
    inside: slice
    length: int


def axes_of(window: Window, spatial: tuple[int, ...]) -> list[Axis]:
    """Return the windows along each axis."""
    counts = operator_shapes.window_grid(window, spatial)
    return [_axis(*values) for values in zip(spatial, *window[:4], counts, strict=True)]


def _axis(size: int, kernel: int, stride: int, padding: int, dilation: int, count: int) -> Axis:
    starts: slice | Array = slice(0, stride * (count - 1) + 1, stride)
    if padding > size:
        # The kernel is at least twice the padding, so each window reaches beyond the end of the input, even if it
        # starts a multiple of the dilation later.
        positions = stride * np.arange(count) - padding
        positions += np.maximum(-positions - size, 0) // dilation * dilation
        padding = -int(positions.min())
        starts = positions + padding
    kernel = min(kernel, (size + padding - 1) // dilation + 1)
    return Axis(size, kernel, dilation if kernel > 1 else 1, padding, count, starts)


def bands(axis: Axis, max_values: int) -> Iterator[Band]:
    """Yield the windows in bands that each cover about `max_values` positions, but at least three times a window."""
    if not isinstance(axis.starts, slice):
        yield _band(axis, slice(0, axis.window_count), axis.starts, 0, int(axis.starts.max()) + axis.extent)
        return
    stride = axis.starts.step
    per_band = max(1, max(max_values, 3 * axis.extent) // stride)
    for first in range(0, axis.window_count, per_band):
        count = min(per_band, axis.window_count - first)
        span = stride * (count - 1) + 1
        windows, starts = slice(first, first + count), slice(0, span, stride)
        yield _band(axis, windows, starts, stride * first, span + axis.extent - 1)


def _band(axis: Axis, windows: slice, starts: slice | Array, first: int, length: int) -> Band:
    start = max(first - axis.before, 0)
    # A window in the padding alone would otherwise cover no input at all, of which there is always some.
    length = max(length, start + axis.before - first + 1)
    end = min(first + length - axis.before, axis.size)
    return Band(windows, starts, start + axis.before - first, slice(start, end), length)


def combine_axis(source: Array, axis: Axis, band: Band, padding: float, combination: Combination, stop: Stop) -> Array:
    """Return the combination of each window of a band along the middle axis.

    Args:
        source: (outer, the length of `band.inside`, inner), any strides.
        axis: the windows.
        band: the band of them.
        padding: what positions outside the input hold.
        combination: `extremes` or `sums`.
        stop: called before each block.

    Shape:
        (outer, windows of the band, inner), contiguous.

    Raises:
        WorkStopped: `stop` returned True.
    """
    outer, size, inner = source.shape
    result = np.empty((outer, band.windows.stop - band.windows.start, inner), source.dtype)
    inner_step = min(inner, max(16, SLIDING_BLOCK_VALUES // band.length))
    outer_step = max(1, SLIDING_BLOCK_VALUES // (band.length * inner_step))
    for row in range(0, outer, outer_step):
        for column in range(0, inner, inner_step):
            if stop():
                raise WorkStopped
            block = source[row : row + outer_step, :, column : column + inner_step]
            if size < band.length:
                padded = np.full((len(block), band.length, block.shape[2]), padding, source.dtype)
                padded[:, band.before : band.before + size] = block
                block = padded
            out = result[row : row + outer_step, :, column : column + inner_step]
            combination(axis, np.ascontiguousarray(block), band.starts, out)
    return result


def extremes(combine: np.ufunc) -> Combination:
    """Return the combination of each window to its maximum or minimum; `combine` is np.maximum or np.minimum."""

    def run(axis: Axis, block: Array, starts: slice | Array, out: Array) -> None:
        width = 1
        for table in _tables(axis, block, combine):
            if 2 * width > axis.kernel:
                combine(table[:, starts], table[:, _moved(starts, axis.dilation * (axis.kernel - width))], out=out)
            width *= 2

    return run


def sums(axis: Axis, block: Array, starts: slice | Array, out: Array) -> None:
    """Write the sum of each window."""
    out[...] = 0
    width, added = 1, 0
    with np.errstate(invalid="ignore", over="ignore"):
        for table in _tables(axis, block, np.add):
            if axis.kernel & width:
                np.add(out, table[:, _moved(starts, axis.dilation * added)], out=out)
                added += width
            width *= 2


def _tables(axis: Axis, block: Array, combine: np.ufunc) -> Iterator[Array]:
    """Yield the combinations of 1, 2, 4, ... values, up to the kernel size, from each position of the block.

    Each is valid until the next one is asked for. A combination that would reach beyond the end of its row is
    undefined; no window holds it.
    """
    yield block
    step = axis.dilation * block.shape[2]
    buffers: list[Array] = []
    current, width = block.reshape(-1), 1
    while 2 * width <= axis.kernel:
        if len(buffers) < 2:
            buffers.append(np.empty_like(current))
        target = buffers[0] if current is not buffers[0] else buffers[1]
        count = current.size - (2 * width - 1) * step
        # One call for the whole block, across the ends of its rows, is faster than one per row.
        combine(current[:count], current[width * step : width * step + count], out=target[:count])
        current = target
        width *= 2
        yield current.reshape(block.shape)


def _moved(starts: slice | Array, distance: int) -> slice | Array:
    if isinstance(starts, slice):
        return slice(starts.start + distance, starts.stop + distance, starts.step)
    return starts + distance


def visits_per_value(window: Window, spatial: tuple[int, ...]) -> float:
    """Return how often windows read each value of a plane on average."""
    axes = zip(spatial, *window[:4], operator_shapes.window_grid(window, spatial), strict=True)
    visits: float = math.prod(
        min(kernel, -(-size // dilation)) * count / size for size, kernel, _, _, dilation, count in axes
    )
    return visits


def positions(window: Window, spatial: tuple[int, ...]) -> int:
    """Return how many values of a plane a window holds at most."""
    return math.prod(
        min(kernel, -(-size // dilation))
        for size, kernel, dilation in zip(spatial, window.kernel_size, window.dilation, strict=True)
    )
