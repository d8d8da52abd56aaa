"""The kernel factories of the maximum and minimum operators: bit for bit torch's results.

A factory returns the kernel of a spec for planes of one spatial shape and dtype, or None if torch must pool them. Specs
that ask for indices never get here.
"""

from typing import Any

import numpy as np

from poolservice_server.pooling.array_types import Kernel
from poolservice_server.pooling.numpy_kernels import adaptive, global_reductions, signed_zeros, window_kernels
from poolservice_server.pooling.window_geometry import tile_grid


def max_pool(spec: Any, spatial: tuple[int, ...], dtype: np.dtype) -> Kernel | None:
    """Maximum of each window."""
    return window_kernels.extreme(spec.window, spatial, dtype, np.maximum)


def min_pool(spec: Any, spatial: tuple[int, ...], dtype: np.dtype) -> Kernel | None:
    """Minimum of each window."""
    return window_kernels.extreme(spec.window, spatial, dtype, np.minimum)


def adaptive_max_pool(spec: Any, spatial: tuple[int, ...], _dtype: np.dtype) -> Kernel | None:
    """Maximum of each tile."""
    grid = tile_grid(spec, spatial)
    if 0 in grid:
        return None
    if set(grid) == {1}:
        return signed_zeros.checked(global_reductions.extreme(spatial, np.maximum))
    return signed_zeros.checked(adaptive.extreme(spatial, grid, np.maximum))


def global_max_pool(_spec: Any, spatial: tuple[int, ...], _dtype: np.dtype) -> Kernel | None:
    """Maximum of each plane."""
    return signed_zeros.checked(global_reductions.extreme(spatial, np.maximum))


def global_min_pool(_spec: Any, spatial: tuple[int, ...], _dtype: np.dtype) -> Kernel | None:
    """Minimum of each plane."""
    return signed_zeros.checked(global_reductions.extreme(spatial, np.minimum))
