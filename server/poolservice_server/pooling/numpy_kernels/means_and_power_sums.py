"""The kernel factories of the means, the power sums and the blend of maximum and mean.

A factory returns the kernel of a spec for planes of one spatial shape and dtype, or None if torch must pool them. The
means and power sums of windows have torch's bits. Tiles and whole planes are added in another order than torch's, and
so are large windows, which `sliding_sums` adds in a tree.
"""

import math
from typing import Any

import numpy as np

from poolservice_server.pooling.array_types import Array, CompleteKernel, Kernel
from poolservice_server.pooling.numpy_kernels import adaptive, global_reductions, window_kernels
from poolservice_server.pooling.sum_dtypes import BYTES_IN_FLOAT32, sum_fits_float64
from poolservice_server.pooling.window_geometry import largest_tile, tile_grid

_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)


def avg_pool(spec: Any, spatial: tuple[int, ...], dtype: np.dtype) -> Kernel | None:
    """Mean of each window."""
    return _rounded(window_kernels.mean(spec, spec.window, spatial, dtype), dtype)


def lp_pool(spec: Any, spatial: tuple[int, ...], dtype: np.dtype) -> Kernel | None:
    """Power sum of each window, for the power 2 only."""
    if spec.norm_type != 2 or spec.window.ceil_mode:
        return None
    if dtype.kind == "f":
        return window_kernels.root_of_squares(spec.window, spatial, dtype)
    root = window_kernels.root_of_squares(spec.window, spatial, _FLOAT64)
    return None if root is None else _rounded(lambda planes: root(planes.astype(_FLOAT64)), dtype)


def mixed_pool(spec: Any, spatial: tuple[int, ...], dtype: np.dtype) -> Kernel | None:
    """Blend of maximum and mean of each window."""
    maximum = window_kernels.extreme(spec.window, spatial, dtype, np.maximum)
    mean = window_kernels.mean(spec, spec.window, spatial, dtype)
    return _rounded(window_kernels.blend(spec.weight_of_maximum, maximum, mean), dtype)


def adaptive_avg_pool(spec: Any, spatial: tuple[int, ...], dtype: np.dtype) -> Kernel | None:
    """Mean of each tile."""
    grid = tile_grid(spec, spatial)
    if set(grid) == {1}:
        return global_avg_pool(spec, spatial, dtype)
    if 0 in grid:
        return None
    if dtype.kind == "f":
        return adaptive.mean(spatial, grid, dtype)
    in_float32 = dtype.itemsize == 1 and largest_tile(spatial, grid) <= BYTES_IN_FLOAT32
    computed_in = _FLOAT32 if in_float32 else _FLOAT64
    mean = adaptive.mean(spatial, grid, computed_in, integers=True)
    if mean is None:
        return None
    return _checked_int64(lambda planes: mean(planes).astype(_FLOAT32, copy=False), spatial, dtype)


def global_avg_pool(_spec: Any, spatial: tuple[int, ...], dtype: np.dtype) -> Kernel | None:
    """Mean of each plane."""
    return _checked_int64(global_reductions.mean(spatial, dtype), spatial, dtype)


def _checked_int64(mean: CompleteKernel, spatial: tuple[int, ...], dtype: np.dtype) -> Kernel:
    """Let torch pool int64 planes whose sums float64 does not hold; it holds those of all other integers."""
    if dtype != np.int64:
        return mean
    count = math.prod(spatial)
    return lambda planes: mean(planes) if sum_fits_float64(planes, count) else None


def _rounded(mean: Kernel | None, dtype: np.dtype) -> Kernel | None:
    """Round the means of integers to float32."""
    if mean is None or dtype.kind == "f":
        return mean

    def run(planes: Array) -> Array | None:
        means = mean(planes)
        return None if means is None else means.astype(_FLOAT32, copy=False)

    return run
