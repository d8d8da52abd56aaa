"""Kernels of sliding windows: by gathering or by slices, whichever is faster, with torch's bits.

A kernel returns None if torch is faster for that many planes, or if a zero may have the wrong sign.
"""

import math
from collections.abc import Callable

import numpy as np
import torch

from poolservice.specs import PoolSpec, Window
from poolservice_server import operator_shapes
from poolservice_server.kernel_thresholds import (
    CACHED_DIVISORS,
    GATHER_MAX_POSITIONS,
    GATHER_MAX_VALUES,
    GATHER_MAX_VALUES_STRIDED,
    SLICE_MAX_EXTREME_KERNEL,
    SLICE_MAX_SUM_KERNEL,
    SLICE_MIN_ROW,
    SLICE_MIN_VALUES,
)
from poolservice_server.pooling.array_types import Array, Kernel
from poolservice_server.pooling.interop import to_tensor
from poolservice_server.pooling.numpy_kernels import gather, shifted_slices, signed_zeros
from poolservice_server.pooling.sum_dtypes import float_for_sum, narrowest_for_sum, sum_fits_float64
from poolservice_server.pooling.window_geometry import every_window_holds_input, mean_divisors


def extreme(window: Window, spatial: tuple[int, ...], dtype: np.dtype, combine: np.ufunc) -> Kernel | None:
    """Return the kernel of the maximum or minimum of each window; `combine` is np.maximum or np.minimum."""
    if dtype.kind == "f" and len(spatial) == 1:
        return _max_1d(window, spatial) if combine is np.maximum else None
    slice_from = _slice_from(window, spatial, SLICE_MAX_EXTREME_KERNEL)
    gather_up_to = _gather_up_to(window, spatial, slice_from)
    if math.prod(window.kernel_size) > GATHER_MAX_POSITIONS:
        # All values of all windows lie in memory before any is compared.
        gather_up_to = min(gather_up_to, GATHER_MAX_VALUES_STRIDED // shifted_slices.values_read(window, spatial))
    if not every_window_holds_input(window) or (gather_up_to == 0 and slice_from == math.inf):
        return None

    def run(planes: Array) -> Array | None:
        if len(planes) <= gather_up_to:
            extremes = gather.window_extreme(planes, gather.window_indices(window, spatial, False), combine)
        elif len(planes) >= slice_from:
            extremes = shifted_slices.window_extreme(planes, window, combine)
        else:
            return None
        return None if signed_zeros.may_be_wrong(planes, extremes) else extremes

    return run


def mean(spec: PoolSpec, window: Window, spatial: tuple[int, ...], dtype: np.dtype) -> Kernel | None:
    """Return the kernel of the mean of each window. It gives float32 for bytes and float64 for other integers."""
    total = _total(window, spatial, dtype)
    if total is None:
        return None
    size = math.prod(window.kernel_size)
    count_include_pad, override = getattr(spec, "count_include_pad", True), getattr(spec, "divisor_override", None)
    computed_in = float_for_sum(dtype, size)
    if override is None and (window.ceil_mode or (any(window.padding) and not count_include_pad)):
        divisor = _cached_if_small(
            lambda: mean_divisors(window, spatial, count_include_pad).astype(computed_in), window, spatial
        )
    else:
        divisor = _constant(np.array(override or size, computed_in))
    zero = np.zeros((), computed_in)

    def run(planes: Array) -> Array | None:
        totals = total(planes)
        if totals is None:
            return None
        np.divide(totals, divisor(), totals)
        # torch adds the quotient to zero, and 0.0 + -0.0 is 0.0.
        return np.add(totals, zero, totals)

    return run


def root_of_squares(window: Window, spatial: tuple[int, ...], dtype: np.dtype) -> Kernel | None:
    """Return the kernel of the square root of the sum of each window's squares, for float32 or float64."""
    total = _total(window, spatial, dtype)
    if total is None:
        return None
    size = np.array(math.prod(window.kernel_size), dtype)

    def run(planes: Array) -> Array | None:
        with np.errstate(over="ignore"):
            totals = total(np.multiply(planes, planes))
            if totals is None:
                return None
            # torch computes the sum as the mean times the size, so this rounds as torch does.
            np.divide(totals, size, totals)
            np.multiply(totals, size, totals)
        # numpy's square root would be slightly more exact, but would not have torch's bits.
        torch.from_numpy(totals).sqrt_()
        return totals

    return run


def blend(alpha: float | tuple[float, ...], maximum: Kernel | None, mean: Kernel | None) -> Kernel | None:
    """Return the kernel of alpha * maximum + (1 - alpha) * mean, in the type of the mean.

    With one alpha per channel, the kernel takes the planes of whole samples.
    """
    if maximum is None or mean is None:
        return None

    def run(planes: Array) -> Array | None:
        means = mean(planes)
        maxima = None if means is None else maximum(planes)
        if means is None or maxima is None:
            return None
        with np.errstate(invalid="ignore", over="ignore"):
            blended: Array = maxima.astype(means.dtype, copy=False)
            of_maximum, of_mean = shares(alpha, means)
            blended *= of_maximum
            means *= of_mean
            blended += means
        return blended

    return run


def shares(alpha: float | tuple[float, ...], means: Array) -> tuple[float | Array, float | Array]:
    """Return the weights of maximum and mean: alpha and 1 - alpha, for each plane if there is one alpha per channel."""
    if isinstance(alpha, float):
        return alpha, 1 - alpha
    alphas = np.tile(np.array(alpha), len(means) // len(alpha)).reshape(-1, *(1,) * (means.ndim - 1))
    return alphas.astype(means.dtype), (1 - alphas).astype(means.dtype)


def _cached_if_small(divisors: Callable[[], Array], window: Window, spatial: tuple[int, ...]) -> Callable[[], Array]:
    """Compute the divisors once, or per call if a thousand kernels that each cache theirs would fill the memory."""
    return (
        divisors if math.prod(operator_shapes.window_grid(window, spatial)) > CACHED_DIVISORS else _constant(divisors())
    )


def _constant(value: Array) -> Callable[[], Array]:
    return lambda: value


def _max_1d(window: Window, spatial: tuple[int, ...]) -> Kernel | None:
    """Return torch.max_pool1d for floats in one dimension: it computes many windows at a time."""
    # It walks through the whole length of a window, which may be 2^30. Longer windows slide.
    if window.kernel_size[0] > min(spatial[0], SLICE_MAX_EXTREME_KERNEL):
        return None
    return lambda planes: torch.max_pool1d(to_tensor(planes).contiguous(), *window).numpy()


def _total(window: Window, spatial: tuple[int, ...], dtype: np.dtype) -> Kernel | None:
    """Return the kernel of the sum of each window, in the type of its mean; the sums of integers are exact."""
    size = math.prod(window.kernel_size)
    slice_from = (
        math.inf if _skips_many_columns(window, spatial, dtype) else _slice_from(window, spatial, SLICE_MAX_SUM_KERNEL)
    )
    gather_up_to = _gather_up_to(window, spatial, slice_from) if max(window.dilation) == 1 else 0
    if gather_up_to == 0 and slice_from == math.inf:
        return None
    sliced_in, computed_in = narrowest_for_sum(dtype, size), float_for_sum(dtype, size)

    def run(planes: Array) -> Array | None:
        count = len(planes)
        if dtype == np.int64 and not sum_fits_float64(planes, size):
            return None
        if count <= gather_up_to:
            indices = gather.window_indices(window, spatial, True)
            return gather.window_sum(planes.astype(computed_in, copy=False), indices)
        if count >= slice_from:
            return shifted_slices.window_sum(planes.astype(sliced_in, copy=False), window).astype(
                computed_in, copy=False
            )
        return None

    return run


def _gather_up_to(window: Window, spatial: tuple[int, ...], slice_from: float) -> float:
    """Return up to how many planes gathering is the fastest; 0 if it never is."""
    if not gather.are_cacheable(window, spatial):
        return 0
    if slice_from == math.inf:
        return math.inf
    max_values = GATHER_MAX_VALUES if window.stride[-1] == 1 else GATHER_MAX_VALUES_STRIDED
    return max_values // shifted_slices.values_read(window, spatial)


def _slice_from(window: Window, spatial: tuple[int, ...], max_kernel: int) -> float:
    """Return from how many planes slices are worth their calls; infinity if they never are."""
    if not 1 < max(window.kernel_size) <= max_kernel or max(window.dilation) > 1 or spatial[-1] < SLICE_MIN_ROW:
        return math.inf
    return math.ceil(SLICE_MIN_VALUES / shifted_slices.values_read(window, spatial))


def _skips_many_columns(window: Window, spatial: tuple[int, ...], dtype: np.dtype) -> bool:
    """Return True if windows skip so many columns that adding those too takes longer than torch."""
    small = math.prod(window.kernel_size) <= 4 and spatial[-1] >= 4 * SLICE_MIN_ROW
    return window.stride[-1] > 1 and not small and (window.stride[-1] > 2 or dtype.itemsize > 4)
