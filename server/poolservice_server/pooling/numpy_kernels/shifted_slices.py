"""Windows by shifted slices: combine whole slices of the planes, where torch walks from window to window.

Planes (P, *spatial) have any strides and any dtype that numpy computes with; float16 and bfloat16 are not among them.
numpy makes a slice in a tenth of torch's time. A maximum is separable: rows are combined with their neighbors first,
then columns. A sum adds slices in the order in which torch adds the values of a window, so it has torch's bits except
for the sign of a zero.
"""

import math
from collections.abc import Callable, Sequence
from functools import reduce
from itertools import product
from operator import mul
from typing import NamedTuple

import numpy as np
import torch

from poolservice.specs import Window
from poolservice_server import operator_shapes
from poolservice_server.cache import cached
from poolservice_server.kernel_thresholds import SLICE_MAX_TORCH_RUN
from poolservice_server.pooling.array_types import Array
from poolservice_server.pooling.interop import to_tensor
from poolservice_server.pooling.numpy_kernels import global_reductions

# By the size of an element: an integer of that size, and one of twice that size.
_INTEGER_OF_SIZE = {1: np.int8, 2: np.int16, 4: np.int32, 8: np.int64}
_INTEGER_OF_TWICE = {1: np.int16, 2: np.int32, 4: np.int64}

_IN_TORCH: dict[np.ufunc, Callable[..., torch.Tensor]] = {np.maximum: torch.maximum, np.minimum: torch.minimum}


class _Layout(NamedTuple):
    """The numbers and sizes of a plane's windows.

    Attributes:
        counts: the number of windows in each dimension.
        padded: the spatial shape of the padded plane.
        values_read: the number of values that all windows hold, padding included.
    """

    counts: tuple[int, ...]
    padded: tuple[int, ...]
    values_read: int


@cached("layouts")
def _layout(window: Window, spatial: tuple[int, ...]) -> _Layout:
    counts = operator_shapes.window_grid(window, spatial)
    padded = [
        max(stride * (count - 1) + kernel, padding + size)
        for count, kernel, stride, padding, size in zip(counts, *window[:3], spatial, strict=True)
    ]
    if padded[-1] > spatial[-1] and window.stride[-1] == 2:
        padded[-1] += padded[-1] % 2  # an even number, for the pairs in `_every_nth_column`
    return _Layout(counts, tuple(padded), math.prod(counts) * math.prod(window.kernel_size))


def values_read(window: Window, spatial: tuple[int, ...]) -> int:
    """Return how many values all windows of a plane hold, padding included."""
    return _layout(window, spatial).values_read


def window_extreme(planes: Array, window: Window, combine: np.ufunc) -> Array:
    """Return the extreme of each window; a zero may have the sign of any zero in the window, see `signed_zeros`."""
    if planes.dtype.kind == "f":
        padding = -math.inf if combine is np.maximum else math.inf
    else:
        padding = np.iinfo(planes.dtype).min if combine is np.maximum else np.iinfo(planes.dtype).max
    return _extreme(planes, window, combine, padding)


def window_sum(planes: Array, window: Window) -> Array:
    """Return the sum of each window, in the planes' dtype, added in row-major order; a zero may have either sign."""
    layout = _layout(window, planes.shape[1:])
    values, first_axis = _pad(planes, window, layout, 0)
    # Neighbours in a row are as many values apart as there are interleaved planes.
    distance = len(planes) if first_axis == 0 else 1
    rows, shape = _rows(values, window, layout.counts, first_axis)
    # Each addition covers the whole array, as in `_combine_columns`.
    offsets = range(0, window.kernel_size[-1] * distance, distance)
    size = rows[-1].size - offsets[-1]
    left, right, *rest = [row[offset : offset + size] for row in rows for offset in offsets]
    total = np.empty(shape, values.dtype)
    inside = total.reshape(-1)[:size]
    with np.errstate(invalid="ignore", over="ignore"):
        np.add(left, right, out=inside)
        for part in rest:
            np.add(inside, part, out=inside)
    total = total[_index(first_axis, [slice(count) for count in layout.counts[:-1]])]
    return _every_nth_column(total, window.stride[-1], layout.counts[-1], first_axis)


def _rows(
    values: Array, window: Window, counts: tuple[int, ...], first_axis: int
) -> tuple[list[Array], tuple[int, ...]]:
    """Return, for each row of the window, the flat values that all windows have there, and the shape to give them."""
    strides = window.stride[:-1]
    offsets = product(*map(range, window.kernel_size[:-1]))
    if all(stride == 1 for stride in strides):
        values = np.ascontiguousarray(values)
        flat = values.reshape(-1)
        pitches = [pitch // values.itemsize for pitch in values.strides[first_axis:]]
        return [flat[sum(map(mul, offset, pitches)) :] for offset in offsets], values.shape
    rows = [
        np.ascontiguousarray(
            values[
                _index(
                    first_axis,
                    [
                        slice(start, start + stride * (count - 1) + 1, stride)
                        for start, stride, count in zip(offset, strides, counts[:-1], strict=True)
                    ],
                )
            ]
        )
        for offset in offsets
    ]
    return [row.reshape(-1) for row in rows], rows[0].shape


def _extreme(planes: Array, window: Window, combine: np.ufunc, padding: float) -> Array:
    layout = _layout(window, planes.shape[1:])
    values, first_axis = _pad(planes, window, layout, padding)
    *outer_kernel, width = window.kernel_size
    for i, kernel in enumerate(outer_kernel):
        if kernel > 1 or window.stride[i] > 1:
            values = _combine_rows(values, first_axis + i, kernel, window.stride[i], layout.counts[i], combine)
        elif layout.counts[i] != values.shape[first_axis + i]:
            values = values[_index(first_axis + i, [slice(layout.counts[i])])]
    if width > 1:
        values = _combine_columns(values, width, planes.shape[0] if first_axis == 0 else 1, combine)
    return _every_nth_column(values, window.stride[-1], layout.counts[-1], first_axis)


def _pad(planes: Array, window: Window, layout: _Layout, padding: float) -> tuple[Array, int]:
    """Return the planes in memory order, padded as far as the windows reach, and the index of the first spatial axis.

    Interleaved planes, such as the channels of an image, stay interleaved: (*spatial, P).
    """
    interleaved = global_reductions.is_interleaved(planes)
    first_axis = 0 if interleaved else 1
    values = np.moveaxis(planes, 0, -1) if interleaved else np.ascontiguousarray(planes)
    spatial = planes.shape[1:]
    if layout.padded == spatial:
        return values, first_axis
    shape = (*values.shape[:first_axis], *layout.padded, *values.shape[first_axis + len(spatial) :])
    padded = np.full(shape, padding, values.dtype)
    inside = [slice(before, before + size) for before, size in zip(window.padding, spatial, strict=True)]
    padded[_index(first_axis, inside)] = values
    return padded, first_axis


def _combine_rows(values: Array, axis: int, kernel: int, stride: int, count: int, combine: np.ufunc) -> Array:
    """Combine `kernel` neighbors along an axis that is not the last one."""
    values, offsets = _doubled(values, axis, kernel, combine)
    span = stride * (count - 1) + 1
    parts = [values[_index(axis, [slice(offset, offset + span, stride)])] for offset in offsets]
    if len(parts) == 1:
        return np.ascontiguousarray(parts[0])
    if stride > 1 and math.prod(parts[0].shape[axis + 1 :]) <= SLICE_MAX_TORCH_RUN:
        # numpy pays for every contiguous run, which dominates if runs are short.
        combined: Array = reduce(_IN_TORCH[combine], map(to_tensor, parts)).numpy()
        return combined
    out: Array = combine(parts[0], parts[1])
    for part in parts[2:]:
        combine(out, part, out=out)
    return out


def _doubled(values: Array, axis: int, kernel: int, combine: np.ufunc) -> tuple[Array, Sequence[int]]:
    """Return the extremes of short windows, and the offsets at which they make up a window of `kernel`."""
    width = 1
    while kernel > 3 and 2 * width < kernel:
        # Two windows of this width make one of twice the width.
        values = combine(values[_index(axis, [slice(-width)])], values[_index(axis, [slice(width, None)])])
        width *= 2
    return values, range(kernel) if width == 1 else (0, kernel - width)


def _combine_columns(values: Array, kernel: int, distance: int, combine: np.ufunc) -> Array:
    """Combine `kernel` neighbors along the last spatial axis, which are `distance` values apart in memory.

    Each call covers the whole array, which is four times as fast as row by row. At the end of a row it combines values
    with those of the next row; no window holds these results.
    """
    out = np.empty(values.shape, values.dtype)
    inside = out.reshape(-1)[: out.size - (kernel - 1) * distance]
    # As rows of `distance` values, so that each neighbor is in the next row.
    flat, offsets = _doubled(np.ascontiguousarray(values).reshape(-1, distance), 0, kernel, combine)
    parts = [flat.reshape(-1)[offset * distance :][: inside.size] for offset in offsets]
    combine(parts[0], parts[1], out=inside)
    for part in parts[2:]:
        combine(inside, part, out=inside)
    return out


def _every_nth_column(values: Array, stride: int, count: int, first_axis: int) -> Array:
    """Return the first of every `stride` values along the last spatial axis, `count` in all, as planes (P, *out)."""
    span = stride * (count - 1) + 1
    if first_axis == 0:
        return np.ascontiguousarray(np.moveaxis(values[..., :span:stride, :], -1, 0))
    if stride == 2 and values.shape[-1] % 2 == 0 and values.itemsize in _INTEGER_OF_TWICE:
        # A narrowing cast of each pair, read as one little-endian integer, keeps the first value. It takes one
        # instruction for many pairs, where a strided copy goes value by value.
        size = values.itemsize
        values = values.view(_INTEGER_OF_TWICE[size]).astype(_INTEGER_OF_SIZE[size]).view(values.dtype)
        stride, span = 1, count
    return np.ascontiguousarray(values[..., :span:stride])


def _index(axis: int, spans: list[slice]) -> tuple[slice, ...]:
    return (slice(None),) * axis + tuple(spans)
