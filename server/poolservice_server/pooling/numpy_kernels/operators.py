"""What the processor pools in numpy alone.

A call of torch's takes some ten microseconds where other code ran in between, since its way to a kernel leads through
much of a large library that is not in the caches; numpy's takes one or two. That is most of what a small item costs.
Which way is the soonest is found out once for each kind of planes, which `PoolStage` remembers, so that a call does
little but pool.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from poolservice.specs import PoolSpec
from poolservice_server.pooling.exact_sums import BYTES_IN_FLOAT32
from poolservice_server.pooling.interop import HALVES, narrowed, widened
from poolservice_server.pooling.numpy_kernels import adaptive, reductions, signed_zeros, windowed
from poolservice_server.pooling.numpy_kernels.windowed import Array, Kernel
from poolservice_server.pooling.windows import largest_tile

_SINGLE, _DOUBLE = np.dtype(np.float32), np.dtype(np.float64)

# Operators that add in another order than torch's.
_IN_OUR_ORDER = ("adaptive_avg_pool", "global_avg_pool")

# Values from which on halves are worth widening.
_FEWEST_HALVES = 4096


def kernel_for(spec: PoolSpec, spatial: tuple[int, ...], dtype: np.dtype) -> Kernel | None:
    """How planes (P, *spatial) of this type are pooled in numpy; None where that is torch's to do.

    What is given back takes planes of any strides, and gives the values, contiguous, or None of those planes that are
    torch's to pool. Order statistics and the means of windows have torch's bits.
    """
    choose = None if 0 in spatial else _CHOICES.get(spec.operator)
    if choose is None or getattr(spec, "return_indices", False):
        return None
    return _of_halves(choose, spec, spatial, dtype) if dtype in HALVES else choose(spec, spatial, dtype)


def _max_pool(spec: Any, spatial: tuple[int, ...], dtype: np.dtype) -> Kernel | None:
    return windowed.extreme(spec.window, spatial, dtype, np.maximum)


def _min_pool(spec: Any, spatial: tuple[int, ...], dtype: np.dtype) -> Kernel | None:
    return windowed.extreme(spec.window, spatial, dtype, np.minimum)


def _avg_pool(spec: Any, spatial: tuple[int, ...], dtype: np.dtype) -> Kernel | None:
    return _narrowed(windowed.mean(spec, spec.window, spatial, dtype), dtype)


def _lp_pool(spec: Any, spatial: tuple[int, ...], dtype: np.dtype) -> Kernel | None:
    if spec.norm_type != 2 or spec.window.ceil_mode:
        return None
    if dtype.kind == "f":
        return windowed.root_of_squares(spec.window, spatial, dtype)
    root = windowed.root_of_squares(spec.window, spatial, _DOUBLE)
    return None if root is None else _narrowed(lambda planes: root(planes.astype(_DOUBLE)), dtype)


def _mixed_pool(spec: Any, spatial: tuple[int, ...], dtype: np.dtype) -> Kernel | None:
    largest = windowed.extreme(spec.window, spatial, dtype, np.maximum)
    average = windowed.mean(spec, spec.window, spatial, dtype)
    return _narrowed(windowed.blend(spec.alpha, largest, average), dtype)


def _adaptive_avg_pool(spec: Any, spatial: tuple[int, ...], dtype: np.dtype) -> Kernel | None:
    sizes = _sizes(spec, spatial)
    if set(sizes) == {1}:
        return _global_avg_pool(spec, spatial, dtype)
    if 0 in sizes:
        return None
    if dtype.kind == "f":
        return adaptive.mean(spatial, sizes, dtype)
    few = dtype.itemsize == 1 and largest_tile(spatial, sizes) <= BYTES_IN_FLOAT32
    wide = _SINGLE if few else _DOUBLE
    average = adaptive.mean(spatial, sizes, wide, whole=True)
    if average is None:
        return None
    return _of_integers(lambda planes: average(planes.astype(wide)).astype(_SINGLE, copy=False), spatial, dtype)


def _adaptive_max_pool(spec: Any, spatial: tuple[int, ...], dtype: np.dtype) -> Kernel | None:
    sizes = _sizes(spec, spatial)
    if 0 in sizes:
        return None
    largest = (
        reductions.extreme(spatial, np.maximum) if set(sizes) == {1} else adaptive.extreme(spatial, sizes, np.maximum)
    )
    return _with_signs(largest)


def _global_avg_pool(_spec: Any, spatial: tuple[int, ...], dtype: np.dtype) -> Kernel | None:
    return _of_integers(reductions.mean(spatial, dtype), spatial, dtype)


def _global_max_pool(_spec: Any, spatial: tuple[int, ...], _dtype: np.dtype) -> Kernel | None:
    return _with_signs(reductions.extreme(spatial, np.maximum))


def _global_min_pool(_spec: Any, spatial: tuple[int, ...], _dtype: np.dtype) -> Kernel | None:
    return _with_signs(reductions.extreme(spatial, np.minimum))


_CHOICES: Mapping[str, Callable[[Any, tuple[int, ...], np.dtype], Kernel | None]] = MappingProxyType(
    {
        "max_pool": _max_pool,
        "min_pool": _min_pool,
        "avg_pool": _avg_pool,
        "lp_pool": _lp_pool,
        "mixed_pool": _mixed_pool,
        "adaptive_avg_pool": _adaptive_avg_pool,
        "adaptive_max_pool": _adaptive_max_pool,
        "global_avg_pool": _global_avg_pool,
        "global_max_pool": _global_max_pool,
        "global_min_pool": _global_min_pool,
    }
)


def _sizes(spec: Any, spatial: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size if wanted is None else wanted for wanted, size in zip(spec.sizes, spatial, strict=True))


def _of_integers(mean: Callable[[Array], Array], spatial: tuple[int, ...], dtype: np.dtype) -> Kernel:
    """The means where float64 holds the sums, as it does of all integers but int64."""
    if dtype != np.int64:
        return mean
    count = math.prod(spatial)
    return lambda planes: mean(planes) if reductions.in_float64(planes, count) else None


def _with_signs(extreme: Callable[[Array], Array] | None) -> Kernel | None:
    """The extremes where no zero among them may be of the wrong sign."""
    if extreme is None:
        return None

    def pooled(planes: Array) -> Array | None:
        extremes = extreme(planes)
        return None if signed_zeros.are_open(planes, extremes) else extremes

    return pooled


def _narrowed(mean: Kernel | None, dtype: np.dtype) -> Kernel | None:
    """The means of integers as float32."""
    if mean is None or dtype.kind == "f":
        return mean

    def pooled(planes: Array) -> Array | None:
        means = mean(planes)
        return None if means is None else means.astype(_SINGLE, copy=False)

    return pooled


def _of_halves(choose: Any, spec: PoolSpec, spatial: tuple[int, ...], dtype: np.dtype) -> Kernel | None:
    """By way of float32, rounded once."""
    of_singles: Kernel | None = choose(spec, spatial, _SINGLE)
    if of_singles is None:
        return None
    # The order in which whole planes and tiles are added is not torch's, and so is the same however few there are.
    fewest = 0 if spec.operator in _IN_OUR_ORDER else _FEWEST_HALVES

    def pooled(planes: Array) -> Array | None:
        values = of_singles(widened(planes)) if planes.size >= fewest else None
        return None if values is None else narrowed(values, dtype)

    return pooled
