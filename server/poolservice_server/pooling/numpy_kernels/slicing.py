"""Windows by shifted slices: whole slices of the input are combined, where torch's kernels walk window by window.

On the processor only, and in numpy, which makes a slice in a tenth of torch's time. Planes are numbers that numpy
computes with, halves not among them: (P, *spatial), any strides. A maximum is separable: first rows are combined with
their neighbours, then columns. A sum adds slices in the order in which torch's kernel adds a window's values, and so is
torch's bit for bit, but for the sign of a zero.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, reduce
from itertools import product
from operator import mul
from typing import Any, NamedTuple

import numpy as np
import torch

from poolservice.specs import Window
from poolservice_server import shapes
from poolservice_server.pooling.interop import to_tensor
from poolservice_server.pooling.numpy_kernels import reductions

Array = np.ndarray[Any, Any]

# About a processor core's share of the cache.
_BYTES_AT_ONCE = 2**20

# An integer of an element's size, and one of twice that.
_INTEGER = {1: np.int8, 2: np.int16, 4: np.int32, 8: np.int64}
_INTEGER_OF_TWO = {1: np.int16, 2: np.int32, 4: np.int64}

# Values in a row.
_LONGEST_ROW_IN_TORCH = 128

_IN_TORCH: dict[np.ufunc, Callable[..., torch.Tensor]] = {np.maximum: torch.maximum, np.minimum: torch.minimum}


class _Layout(NamedTuple):
    """How many windows there are, how long the padded input is, and how many values they look at in all."""

    counts: tuple[int, ...]
    padded: tuple[int, ...]
    steps: int


@lru_cache(maxsize=1024)
def _layout(window: Window, spatial: tuple[int, ...]) -> _Layout:
    counts = shapes.windows(window, spatial)
    padded = [
        max(stride * (count - 1) + kernel, padding + size)
        for count, kernel, stride, padding, size in zip(counts, *window[:3], spatial, strict=True)
    ]
    if padded[-1] > spatial[-1] and window.stride[-1] == 2:
        padded[-1] += padded[-1] % 2  # whole pairs, see `_kept`
    return _Layout(counts, tuple(padded), math.prod(counts) * math.prod(window.kernel_size))


def steps(window: Window, spatial: tuple[int, ...]) -> int:
    """How many values all windows of a plane look at."""
    return _layout(window, spatial).steps


def window_extreme(planes: Array, window: Window, combine: np.ufunc) -> Array:
    """The extreme of each window; of several zeros not always the one that counts, see signs.py."""
    if planes.dtype.kind == "f":
        padding = -math.inf if combine is np.maximum else math.inf
    else:
        padding = np.iinfo(planes.dtype).min if combine is np.maximum else np.iinfo(planes.dtype).max
    return _in_cache(planes, lambda some: _extreme(some, window, combine, padding))


def window_sum(planes: Array, window: Window) -> Array:
    """The sum of each window in the planes' own type, in row-major order, with zeros as padding; a zero of any sign."""
    return _in_cache(planes, lambda some: _sum(some, window))


def _sum(planes: Array, window: Window) -> Array:
    layout = _layout(window, planes.shape[1:])
    values, first = _padded(planes, window, layout, 0)
    apart = len(planes) if first == 0 else 1
    rows, shape = _rows(values, window, layout.counts, first)
    # All in one run, as in `_in_a_row`.
    places = range(0, window.kernel_size[-1] * apart, apart)
    size = rows[-1].size - places[-1]
    left, right, *rest = [row[place : place + size] for row in rows for place in places]
    total = np.empty(shape, values.dtype)
    inside = total.reshape(-1)[:size]
    with np.errstate(invalid="ignore", over="ignore"):
        np.add(left, right, out=inside)
        for part in rest:
            np.add(inside, part, out=inside)
    total = total[_index(first, [slice(count) for count in layout.counts[:-1]])]
    return _kept(total, window.stride[-1], layout.counts[-1], first)


def _rows(values: Array, window: Window, counts: tuple[int, ...], first: int) -> tuple[list[Array], tuple[int, ...]]:
    """For each row of the window, in order, those that lie there of all windows, in one run; and their shape."""
    strides = window.stride[:-1]
    offsets = product(*map(range, window.kernel_size[:-1]))
    if all(stride == 1 for stride in strides):
        values = np.ascontiguousarray(values)
        flat = values.reshape(-1)
        pitches = [pitch // values.itemsize for pitch in values.strides[first:]]
        return [flat[sum(map(mul, at, pitches)) :] for at in offsets], values.shape
    rows = [
        np.ascontiguousarray(
            values[
                _index(
                    first,
                    [
                        slice(offset, offset + stride * (count - 1) + 1, stride)
                        for offset, stride, count in zip(at, strides, counts[:-1], strict=True)
                    ],
                )
            ]
        )
        for at in offsets
    ]
    return [row.reshape(-1) for row in rows], rows[0].shape


def _in_cache(planes: Array, pooled: Callable[[Array], Array]) -> Array:
    """Some planes at a time, so that what one pass over them writes is still in the cache for the next."""
    at_once = max(1, _BYTES_AT_ONCE * len(planes) // planes.nbytes)
    if at_once >= len(planes) or reductions.interleaved(planes):
        return pooled(planes)
    return np.concatenate([pooled(planes[i : i + at_once]) for i in range(0, len(planes), at_once)])


def _extreme(planes: Array, window: Window, combine: np.ufunc, padding: float) -> Array:
    layout = _layout(window, planes.shape[1:])
    values, first = _padded(planes, window, layout, padding)
    *sides, width = window.kernel_size
    for i, kernel in enumerate(sides):
        if kernel > 1 or window.stride[i] > 1:
            values = _along(values, first + i, kernel, window.stride[i], layout.counts[i], combine)
        elif layout.counts[i] != values.shape[first + i]:
            values = values[_index(first + i, [slice(layout.counts[i])])]
    if width > 1:
        values = _in_a_row(values, width, planes.shape[0] if first == 0 else 1, combine)
    return _kept(values, window.stride[-1], layout.counts[-1], first)


def _padded(planes: Array, window: Window, layout: _Layout, padding: float) -> tuple[Array, int]:
    """The planes in the order of memory, as long as the windows reach, and which axis is the first spatial one.

    Planes that lie interleaved, as the channels of a picture do, stay so: (*spatial, P).
    """
    interleaved = reductions.interleaved(planes)
    first = 0 if interleaved else 1
    values = np.moveaxis(planes, 0, -1) if interleaved else np.ascontiguousarray(planes)
    spatial = planes.shape[1:]
    if layout.padded == spatial:
        return values, first
    shape = (*values.shape[:first], *layout.padded, *values.shape[first + len(spatial) :])
    padded = np.full(shape, padding, values.dtype)
    inside = [slice(before, before + size) for before, size in zip(window.padding, spatial, strict=True)]
    padded[_index(first, inside)] = values
    return padded, first


def _along(values: Array, axis: int, kernel: int, stride: int, count: int, combine: np.ufunc) -> Array:
    """Combine `kernel` neighbours along an axis that is not the last one."""
    values, offsets = _doubled(values, axis, kernel, combine)
    span = stride * (count - 1) + 1
    parts = [values[_index(axis, [slice(offset, offset + span, stride)])] for offset in offsets]
    if len(parts) == 1:
        return np.ascontiguousarray(parts[0])
    if stride > 1 and math.prod(parts[0].shape[axis + 1 :]) <= _LONGEST_ROW_IN_TORCH:
        # Row by row: numpy takes its time between them, which is what counts where rows are short.
        combined: Array = reduce(_IN_TORCH[combine], map(to_tensor, parts)).numpy()
        return combined
    out: Array = combine(parts[0], parts[1])
    for part in parts[2:]:
        combine(out, part, out=out)
    return out


def _doubled(values: Array, axis: int, kernel: int, combine: np.ufunc) -> tuple[Array, Sequence[int]]:
    """What short windows hold, and at which offsets of these a window of `kernel` is made of them."""
    width = 1
    while kernel > 3 and 2 * width < kernel:
        # What two windows of this width hold, one of twice the width does.
        values = combine(values[_index(axis, [slice(-width)])], values[_index(axis, [slice(width, None)])])
        width *= 2
    return values, range(kernel) if width == 1 else (0, kernel - width)


def _in_a_row(values: Array, kernel: int, apart: int, combine: np.ufunc) -> Array:
    """Combine `kernel` neighbours that lie `apart` in memory, at every place: at a row's end, with the next row's.

    All in one run, which is four times as fast as row by row. What comes of it at the ends of rows is no window's.
    """
    out = np.empty(values.shape, values.dtype)
    inside = out.reshape(-1)[: out.size - (kernel - 1) * apart]
    # As a row of `apart` wide columns, so that a neighbour is `apart` values on.
    flat, offsets = _doubled(np.ascontiguousarray(values).reshape(-1, apart), 0, kernel, combine)
    parts = [flat.reshape(-1)[offset * apart :][: inside.size] for offset in offsets]
    combine(parts[0], parts[1], out=inside)
    for part in parts[2:]:
        combine(inside, part, out=inside)
    return out


def _kept(values: Array, stride: int, count: int, first: int) -> Array:
    """The first of every `stride` along the last spatial axis, `count` in all, as planes (P, *out)."""
    span = stride * (count - 1) + 1
    if first == 0:
        return np.ascontiguousarray(np.moveaxis(values[..., :span:stride, :], -1, 0))
    if stride == 2 and values.shape[-1] % 2 == 0 and values.itemsize in _INTEGER_OF_TWO:
        # Of each pair, read as one little-endian integer, a narrowing cast keeps the first: one instruction for
        # many, where a strided copy goes one by one.
        size = values.itemsize
        values = values.view(_INTEGER_OF_TWO[size]).astype(_INTEGER[size]).view(values.dtype)
        stride, span = 1, count
    return np.ascontiguousarray(values[..., :span:stride])


def _index(axis: int, spans: list[slice]) -> tuple[slice, ...]:
    return (slice(None),) * axis + tuple(spans)
