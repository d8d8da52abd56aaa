"""The geometry of windows and tiles: which input values each one covers, and how many."""

import math
from collections.abc import Sequence

import numpy as np

from poolservice.specs import AdaptiveSpec, Window, WindowSpec
from poolservice_server import operator_shapes
from poolservice_server.cache import cached
from poolservice_server.pooling.array_types import Array


@cached("windows")
def window_of(spec: WindowSpec) -> Window:
    """Return the window of the spec; this cache is faster than building the window from its parameters."""
    window: Window = spec.window
    return window


@cached("windows_2d")
def as_2d(window: Window) -> Window:
    """Return a one-dimensional window as a two-dimensional one over planes of height 1."""
    kernel_size, stride, padding, dilation, ceil_mode = window
    return Window((1, *kernel_size), (1, *stride), (0, *padding), (1, *dilation), ceil_mode)


def tile_grid(spec: AdaptiveSpec, spatial: tuple[int, ...]) -> tuple[int, ...]:
    """Return how many tiles an adaptive spec makes along each dimension; None in the spec keeps the input's size."""
    return tuple(size if wanted is None else wanted for wanted, size in zip(spec.sizes, spatial, strict=True))


def every_window_holds_input(window: Window) -> bool:
    """Return True if no window can lie in the padding alone.

    Padding is at most half the kernel, so a window without dilation always covers a value of the input.
    """
    return all(padding == 0 or dilation == 1 for padding, dilation in zip(window.padding, window.dilation, strict=True))


def mean_divisors(window: Window, spatial: tuple[int, ...], count_include_pad: bool) -> Array:
    """Return the divisor of each window's mean, as float64 of the result's spatial shape.

    It is as large as a plane of the result, so callers cache it only if that is small.
    """
    grid = operator_shapes.window_grid(window, spatial)
    return band_divisors(window, spatial, count_include_pad, [slice(0, windows) for windows in grid])


def band_divisors(window: Window, spatial: tuple[int, ...], count_include_pad: bool, windows: Sequence[slice]) -> Array:
    """Return the divisors of a part of the windows: those that `windows` selects along each dimension."""
    return _outer_product(
        [
            _values_per_window(window, dimension, size, selected, count_include_pad)
            for dimension, (size, selected) in enumerate(zip(spatial, windows, strict=True))
        ]
    )


def _values_per_window(window: Window, dimension: int, size: int, windows: slice, count_include_pad: bool) -> Array:
    kernel, stride, padding = (values[dimension] for values in window[:3])
    starts = stride * np.arange(windows.start, windows.stop) - padding
    ends = np.minimum(starts + kernel, size + padding)
    if not count_include_pad:
        starts, ends = np.maximum(starts, 0), np.minimum(ends, size)
    counts: Array = ends - starts
    return counts


def values_per_tile(spatial: tuple[int, ...], grid: tuple[int, ...]) -> Array:
    """Return the number of values in each tile, as float64 of shape `grid`."""
    return _outer_product([_tile_lengths(size, out) for size, out in zip(spatial, grid, strict=True)])


def largest_tile(spatial: tuple[int, ...], grid: tuple[int, ...]) -> int:
    """Return the number of values in the largest tile."""
    return math.prod(int(_tile_lengths(size, out).max()) for size, out in zip(spatial, grid, strict=True))


def _tile_lengths(size: int, out: int) -> Array:
    tiles = np.arange(out)
    return -(-(tiles + 1) * size // out) - tiles * size // out


def _outer_product(counts: Sequence[Array]) -> Array:
    product: Array = np.ones(())
    for one in counts:
        product = np.multiply.outer(product, one.astype(np.float64))
    return product
