"""Windows by shifted slices: whole slices of the input are combined, where torch's kernels walk window by window.

On the processor only, and in numpy, which makes a slice in a tenth of torch's time. A maximum is separable: first
rows are combined with their neighbours, then columns. A sum adds slices in the order in which torch's kernel adds a
window's values, and so is torch's bit for bit: a plane's answer is the same whichever of the two made it.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch

from poolservice.specs import Window
from poolservice_server import shapes
from poolservice_server.pooling import folds

Array = np.ndarray[Any, Any]

# Below so many values looked at, some twenty calls cost more than torch's walk.
_FEWEST_STEPS = 40_000
_FEWEST_STEPS_TO_ADD = 100_000
_SHORTEST_ROW = 14
_LONGEST_KERNEL = 32
_LONGEST_KERNEL_TO_ADD = 7

# About a processor core's share of the cache.
_BYTES_AT_ONCE = 2**20

# An integer of an element's size, and one of twice that.
_INTEGER = {1: np.int8, 2: np.int16, 4: np.int32, 8: np.int64}
_INTEGER_OF_TWO = {1: np.int16, 2: np.int32, 4: np.int64}


class _Layout(NamedTuple):
    """How many windows there are, how long the padded input is, and how many values they look at in all."""

    counts: tuple[int, ...]
    padded: tuple[int, ...]
    steps: int


@lru_cache(maxsize=1024)
def _layout(window: Window, spatial: tuple[int, ...]) -> _Layout:
    counts = shapes.windows(window, spatial)
    padded = (
        max(stride * (count - 1) + kernel, padding + size)
        for count, kernel, stride, padding, size in zip(counts, *window[:3], spatial, strict=True)
    )
    return _Layout(counts, tuple(padded), math.prod(counts) * math.prod(window.kernel_size))


def suit(planes: torch.Tensor, window: Window, *, adding: bool = False) -> bool:
    """Whether slices are faster than torch's kernel, by tests/bench/kernels.py.

    That takes a small kernel without gaps, rows that are worth a run, and enough values to look at. Sums, which
    are not separable without changing their last bits, gain less, where columns are skipped above all.
    """
    fewest, longest = (_FEWEST_STEPS_TO_ADD, _LONGEST_KERNEL_TO_ADD) if adding else (_FEWEST_STEPS, _LONGEST_KERNEL)
    kernel = window.kernel_size
    return (
        planes.is_cpu
        and planes.numel() * math.prod(kernel) >= fewest
        and 1 < max(kernel) <= longest
        and max(window.dilation) == 1
        and planes.shape[-1] >= _SHORTEST_ROW
        and (not adding or _adding_pays(planes, window))
        and len(planes) * _layout(window, planes.shape[1:]).steps >= fewest
    )


def _adding_pays(planes: torch.Tensor, window: Window) -> bool:
    if window.stride[-1] == 1 or folds.interleaved(planes):
        return True
    return math.prod(window.kernel_size) <= 4 and planes.shape[-1] >= 4 * _SHORTEST_ROW and planes.element_size() <= 4


def window_max(planes: torch.Tensor, window: Window) -> torch.Tensor:
    """The maximum of each window, of planes without -0.0: which of several zeros counts is not torch's choice."""
    lowest = -math.inf if planes.is_floating_point() else torch.iinfo(planes.dtype).min
    return _in_cache(planes, lambda some: _extreme(some, window, np.maximum, lowest))


def window_min(planes: torch.Tensor, window: Window) -> torch.Tensor:
    """The minimum of each window, of planes without -0.0."""
    highest = math.inf if planes.is_floating_point() else torch.iinfo(planes.dtype).max
    return _in_cache(planes, lambda some: _extreme(some, window, np.minimum, highest))


def window_sum(planes: torch.Tensor, window: Window) -> torch.Tensor:
    """The sum of each window in the planes' own type, from zero and in row-major order, with zeros as padding."""
    return _in_cache(planes, lambda some: _sum(some, window))


def _sum(planes: torch.Tensor, window: Window) -> torch.Tensor:
    layout = _layout(window, planes.shape[1:])
    values, first = _padded(planes, window, layout, 0)
    steps, spans, rooms = _last_axis_dense(window, layout.counts, values.itemsize, first)
    shape = list(values.shape)
    shape[first : first + len(rooms)] = rooms
    total = np.empty(shape, values.dtype)
    inside = total[_index(first, [slice(span) for span in spans])]
    left, right, *rest = [values[run] for run in _runs(window.kernel_size, steps, spans, first)]
    with np.errstate(invalid="ignore", over="ignore"):
        np.add(left, right, out=inside)
        for part in rest:
            np.add(inside, part, out=inside)
    # torch adds from zero, and 0.0 + -0.0 is 0.0.
    return _kept(total, window.stride[-1] if steps[-1] != window.stride[-1] else 1, first).add_(0)


@lru_cache(maxsize=1024)
def _runs(
    kernel_size: tuple[int, ...], steps: tuple[int, ...], spans: tuple[int, ...], first: int
) -> list[tuple[slice, ...]]:
    """For each place in the window, in row-major order, what lies there of all windows."""
    return [
        _index(
            first,
            [
                slice(offset, offset + step * (span - 1) + 1, step)
                for offset, step, span in zip(offsets, steps, spans, strict=True)
            ],
        )
        for offsets in product(*map(range, kernel_size))
    ]


def holds_negative_zero(planes: torch.Tensor) -> bool:
    """Whether some value is -0.0."""
    if not planes.is_floating_point() or planes.numel() == 0:
        return False
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[planes.element_size()]
    return int(planes.view(integer).amin()) == torch.iinfo(integer).min


def _in_cache(planes: torch.Tensor, pooled: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Some planes at a time, so that what one pass over them writes is still in the cache for the next."""
    at_once = max(1, _BYTES_AT_ONCE * len(planes) // (planes.numel() * planes.element_size()))
    if at_once >= len(planes) or folds.interleaved(planes):
        return pooled(planes)
    return torch.cat([pooled(planes[i : i + at_once]) for i in range(0, len(planes), at_once)])


def _extreme(planes: torch.Tensor, window: Window, combine: Callable[..., Array], padding: float) -> torch.Tensor:
    if planes.dtype in (torch.float16, torch.bfloat16):
        # numpy compares halves one by one, or not at all; wider floats hold them.
        return _extreme(planes.to(torch.float32), window, combine, padding).to(planes.dtype)
    layout = _layout(window, planes.shape[1:])
    values, first = _padded(planes, window, layout, padding)
    steps, spans, rooms = _last_axis_dense(window, layout.counts, values.itemsize, first)
    for i, kernel in enumerate(window.kernel_size):
        if kernel > 1 or window.stride[i] > 1:
            values = _along(values, first + i, kernel, (steps[i], spans[i], rooms[i]), combine)
        elif spans[i] != values.shape[first + i]:
            values = values[_index(first + i, [slice(spans[i])])]
    return _kept(values, window.stride[-1] if steps[-1] != window.stride[-1] else 1, first)


def _padded(planes: torch.Tensor, window: Window, layout: _Layout, padding: float) -> tuple[Array, int]:
    """The planes in the order of memory, as long as the windows reach, and which axis is the first spatial one.

    Planes that lie interleaved, as the channels of a picture do, stay so: (*spatial, P).
    """
    interleaved = folds.interleaved(planes)
    first = 0 if interleaved else 1
    values: Array = (planes.movedim(0, -1) if interleaved else planes.contiguous()).numpy()
    spatial = tuple(planes.shape[1:])
    if layout.padded == spatial:
        return values, first
    shape = (*values.shape[:first], *layout.padded, *values.shape[first + len(spatial) :])
    padded = np.full(shape, padding, values.dtype)
    inside = [slice(before, before + size) for before, size in zip(window.padding, spatial, strict=True)]
    padded[_index(first, inside)] = values
    return padded, first


def _last_axis_dense(
    window: Window, counts: tuple[int, ...], itemsize: int, first: int
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """For each axis: the step between windows, how many to make, and how many to make room for.

    Along the last axis neighbours in memory combine many at a time, so it pays to make every window of stride 1 and
    to keep some, where keeping them is cheap: see `_kept`.
    """
    stride, count = window.stride[-1], counts[-1]
    if stride == 1 or not (first == 0 or (stride == 2 and itemsize in _INTEGER_OF_TWO)):
        return window.stride, counts, counts
    return (
        (*window.stride[:-1], 1),
        (*counts[:-1], stride * (count - 1) + 1),
        (*counts[:-1], stride * count),
    )


def _along(values: Array, axis: int, kernel: int, places: tuple[int, int, int], combine: Callable[..., Array]) -> Array:
    """Combine `kernel` neighbours along one axis."""
    step, span, room = places
    width = 1
    while kernel > 3 and 2 * width < kernel:
        # What two windows of this width hold, one of twice the width does.
        values = combine(values[_index(axis, [slice(-width)])], values[_index(axis, [slice(width, None)])])
        width *= 2
    offsets = range(kernel) if width == 1 else (0, kernel - width)
    parts = [values[_index(axis, [slice(offset, offset + step * (span - 1) + 1, step)])] for offset in offsets]
    shape = list(values.shape)
    shape[axis] = room
    out = np.empty(shape, values.dtype)
    inside = out if room == span else out[_index(axis, [slice(span)])]
    if len(parts) == 1:
        inside[...] = parts[0]
        return out
    combine(parts[0], parts[1], out=inside)
    for part in parts[2:]:
        combine(inside, part, out=inside)
    return out


def _kept(values: Array, every: int, first: int) -> torch.Tensor:
    """Every so many along the last spatial axis, as planes (P, *out) one behind the other."""
    if first == 0:
        return torch.from_numpy(np.ascontiguousarray(np.moveaxis(values[..., ::every, :], -1, 0)))
    if every == 2:
        # Of each pair, read as one little-endian integer, a narrowing cast keeps the first: one instruction for
        # many, where a strided copy goes one by one.
        size = values.itemsize
        values = values.view(_INTEGER_OF_TWO[size]).astype(_INTEGER[size]).view(values.dtype)
    return torch.from_numpy(np.ascontiguousarray(values))


def _index(axis: int, spans: list[slice]) -> tuple[slice, ...]:
    return (slice(None),) * axis + tuple(spans)
