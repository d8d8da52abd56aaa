"""Where windows lie: what each covers, and how many values it holds."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from poolservice.specs import Window, WindowSpec
from poolservice_server import shapes

Array = np.ndarray[Any, Any]


@lru_cache(maxsize=1024)
def window_of(spec: WindowSpec) -> Window:
    """The spec's window; to look it up costs less than to gather it."""
    return spec.window


@lru_cache(maxsize=1024)
def as_width(window: Window) -> Window:
    """A window of one dimension as one of two, over planes one high."""
    kernel_size, stride, padding, dilation, ceil_mode = window
    return Window((1, *kernel_size), (1, *stride), (0, *padding), (1, *dilation), ceil_mode)


def see_input(window: Window) -> bool:
    """Whether every window is sure to hold a value of the input.

    Padding is at most half the kernel, so a window without gaps always does; one with gaps can see padding alone.
    """
    return all(padding == 0 or dilation == 1 for padding, dilation in zip(window.padding, window.dilation, strict=True))


def window_counts(window: Window, spatial: tuple[int, ...], count_include_pad: bool) -> Array:
    """How many values the mean of each window divides by, as float64 of the result's spatial shape.

    As large as a plane of the result, so nobody keeps it but where that is small.
    """
    counts = []
    for dimension, (size, out) in enumerate(zip(spatial, shapes.windows(window, spatial), strict=True)):
        kernel, stride, padding = (values[dimension] for values in window[:3])
        starts = stride * np.arange(out) - padding
        ends = np.minimum(starts + kernel, size + padding)
        if not count_include_pad:
            starts, ends = np.maximum(starts, 0), np.minimum(ends, size)
        counts.append(ends - starts)
    return _product(counts)


def adaptive_counts(spatial: tuple[int, ...], sizes: tuple[int, ...]) -> Array:
    """How many values each of the windows holds that tile a plane, as float64 of the result's spatial shape."""
    return _product([_tile_lengths(size, out) for size, out in zip(spatial, sizes, strict=True)])


def largest_tile(spatial: tuple[int, ...], sizes: tuple[int, ...]) -> int:
    """How many values the largest of the windows holds that tile a plane."""
    return math.prod(int(_tile_lengths(size, out).max()) for size, out in zip(spatial, sizes, strict=True))


def _tile_lengths(size: int, out: int) -> Array:
    places = np.arange(out)
    return -(-(places + 1) * size // out) - places * size // out


def _product(counts: Sequence[Array]) -> Array:
    product: Array = np.ones(())
    for one in counts:
        product = np.multiply.outer(product, one.astype(np.float64))
    return product
