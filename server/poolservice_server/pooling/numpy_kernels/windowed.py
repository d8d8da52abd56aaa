"""Sliding windows in numpy: by gathering where that is sooner, by slices where they are, and else not at all.

What is given back pools planes (P, *spatial) of one shape and type, any strides, and is made once for them. Its answer
is None where torch's kernel is sooner, or where the sign of a zero is open. Whichever way was taken, the bits are
torch's. The figures are by tests/bench/kernels.py.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from poolservice.specs import PoolSpec, Window
from poolservice_server import shapes
from poolservice_server.pooling.exact_sums import BYTES_IN_FLOAT32
from poolservice_server.pooling.interop import to_tensor
from poolservice_server.pooling.numpy_kernels import gather, reductions, signed_zeros, slicing
from poolservice_server.pooling.windows import see_input, window_counts

Array = np.ndarray[Any, Any]
Kernel = Callable[[Array], Array | None]

# Values looked at up to which a gathering is sooner than slices, some twenty calls; more where windows skip columns,
# which slices look at too.
_MOST_GATHERED = 2**16
_MOST_GATHERED_OF_SOME = 2**17

# Windows of a plane whose counts are kept.
_MOST_COUNTS_KEPT = 2**12

# Values looked at from which on slices are worth their calls, and what windows and rows they are worth them for.
_FEWEST_SLICED = 20_000
_SHORTEST_ROW = 14
_LONGEST_KERNEL = 32
_LONGEST_KERNEL_TO_ADD = 7

_SINGLE, _DOUBLE = np.dtype(np.float32), np.dtype(np.float64)
_BYTES = (np.dtype(np.uint8), np.dtype(np.int8))
_INT16, _INT32, _INT64 = np.dtype(np.int16), np.dtype(np.int32), np.dtype(np.int64)

# int16 holds the sum of so many bytes.
_BYTES_IN_INT16 = 2**7


def extreme(window: Window, spatial: tuple[int, ...], dtype: np.dtype, combine: np.ufunc) -> Kernel | None:
    """The maximum or minimum of each window, by np.maximum or np.minimum."""
    if dtype.kind == "f" and len(spatial) == 1:
        return _in_a_row(window, spatial) if combine is np.maximum else None
    sliced = _fewest_sliced(window, spatial, _LONGEST_KERNEL)
    gathered = _most_gathered(window, spatial, sliced)
    if math.prod(window.kernel_size) > gather.FEW_PLACES:
        # All values of all windows lie beside one another before any is compared.
        gathered = min(gathered, _MOST_GATHERED_OF_SOME // slicing.steps(window, spatial))
    if not see_input(window) or (gathered == 0 and sliced == math.inf):
        return None

    def pooled(planes: Array) -> Array | None:
        if len(planes) <= gathered:
            extremes = gather.window_extreme(planes, gather.places(window, spatial, False), combine)
        elif len(planes) >= sliced:
            extremes = slicing.window_extreme(planes, window, combine)
        else:
            return None
        return None if signed_zeros.are_open(planes, extremes) else extremes

    return pooled


def mean(spec: PoolSpec, window: Window, spatial: tuple[int, ...], dtype: np.dtype) -> Kernel | None:
    """The mean of each window, not narrowed yet: float32 of bytes, float64 of other integers."""
    total = _total(window, spatial, dtype)
    if total is None:
        return None
    size = math.prod(window.kernel_size)
    counted, given = getattr(spec, "count_include_pad", True), getattr(spec, "divisor_override", None)
    computed_in = _computed_in(dtype, size)
    if given is None and (window.ceil_mode or (any(window.padding) and not counted)):
        divisor = _kept_if_small(lambda: window_counts(window, spatial, counted).astype(computed_in), window, spatial)
    else:
        divisor = _always(np.array(given or size, computed_in))
    zero = np.zeros((), computed_in)

    def pooled(planes: Array) -> Array | None:
        totals = total(planes)
        if totals is None:
            return None
        np.divide(totals, divisor(), totals)
        # torch adds the quotient to zero, and 0.0 + -0.0 is 0.0.
        return np.add(totals, zero, totals)

    return pooled


def root_of_squares(window: Window, spatial: tuple[int, ...], dtype: np.dtype) -> Kernel | None:
    """The root of the sum of each window's squares, of float32 or float64."""
    total = _total(window, spatial, dtype)
    if total is None:
        return None
    size = np.array(math.prod(window.kernel_size), dtype)

    def pooled(planes: Array) -> Array | None:
        with np.errstate(over="ignore"):
            totals = total(np.multiply(planes, planes))
            if totals is None:
                return None
            # As torch does, which comes from the mean.
            np.divide(totals, size, totals)
            np.multiply(totals, size, totals)
        # torch's root, which is a bit less exact than numpy's.
        torch.from_numpy(totals).sqrt_()
        return totals

    return pooled


def blend(alpha: float, largest: Kernel | None, average: Kernel | None) -> Kernel | None:
    """alpha * maximum + (1 - alpha) * mean, not narrowed yet."""
    if largest is None or average is None:
        return None

    def pooled(planes: Array) -> Array | None:
        means = average(planes)
        extremes = None if means is None else largest(planes)
        if means is None or extremes is None:
            return None
        with np.errstate(invalid="ignore", over="ignore"):
            blended: Array = extremes.astype(means.dtype, copy=False)
            blended *= alpha
            means *= 1 - alpha
            blended += means
        return blended

    return pooled


def _kept_if_small(counts: Callable[[], Array], window: Window, spatial: tuple[int, ...]) -> Callable[[], Array]:
    """The counts of windows, made anew for each call where a thousand kinds of them would fill the memory."""
    return counts if math.prod(shapes.windows(window, spatial)) > _MOST_COUNTS_KEPT else _always(counts())


def _always(value: Array) -> Callable[[], Array]:
    return lambda: value


def _in_a_row(window: Window, spatial: tuple[int, ...]) -> Kernel | None:
    """The maximum of windows of floats in one dimension, many of which torch.max_pool1d takes at a time."""
    # It walks through the whole length of a window, which may be 2^30.
    if window.kernel_size[0] > spatial[0]:
        return None
    return lambda planes: torch.max_pool1d(to_tensor(planes).contiguous(), *window).numpy()


def _total(window: Window, spatial: tuple[int, ...], dtype: np.dtype) -> Kernel | None:
    """The sum of each window, in the type that its mean is computed in, exact of integers."""
    size = math.prod(window.kernel_size)
    sliced = (
        math.inf if _are_skipped(window, spatial, dtype) else _fewest_sliced(window, spatial, _LONGEST_KERNEL_TO_ADD)
    )
    gathered = _most_gathered(window, spatial, sliced) if max(window.dilation) == 1 else 0
    if gathered == 0 and sliced == math.inf:
        return None
    sliced_in, computed_in = _sliced_in(dtype, size), _computed_in(dtype, size)

    def pooled(planes: Array) -> Array | None:
        count = len(planes)
        if dtype == _INT64 and not reductions.in_float64(planes, size):
            return None
        if count <= gathered:
            where = gather.places(window, spatial, True)
            return gather.window_sum(planes.astype(computed_in, copy=False), where)
        if count >= sliced:
            return slicing.window_sum(planes.astype(sliced_in, copy=False), window).astype(computed_in, copy=False)
        return None

    return pooled


def _most_gathered(window: Window, spatial: tuple[int, ...], sliced: float) -> float:
    """How many planes' windows are gathered at most."""
    if not gather.suit(window, spatial):
        return 0
    if sliced == math.inf:
        return math.inf
    return (_MOST_GATHERED if window.stride[-1] == 1 else _MOST_GATHERED_OF_SOME) // slicing.steps(window, spatial)


def _fewest_sliced(window: Window, spatial: tuple[int, ...], longest: int) -> float:
    """From how many planes on slices are worth their calls; infinity where they never are."""
    if not 1 < max(window.kernel_size) <= longest or max(window.dilation) > 1 or spatial[-1] < _SHORTEST_ROW:
        return math.inf
    return math.ceil(_FEWEST_SLICED / slicing.steps(window, spatial))


def _are_skipped(window: Window, spatial: tuple[int, ...], dtype: np.dtype) -> bool:
    """Whether so many columns are skipped that their sums cost more than torch's walk."""
    few = math.prod(window.kernel_size) <= 4 and spatial[-1] >= 4 * _SHORTEST_ROW
    return window.stride[-1] > 1 and not few and (window.stride[-1] > 2 or dtype.itemsize > 4)


def _computed_in(dtype: np.dtype, values: int) -> np.dtype:
    """A float that holds the sums of so many values, if they are integers."""
    return _SINGLE if dtype == _SINGLE or (dtype in _BYTES and values <= BYTES_IN_FLOAT32) else _DOUBLE


def _sliced_in(dtype: np.dtype, values: int) -> np.dtype:
    """The smallest type that holds the sums of so many values, if they are integers."""
    if dtype in _BYTES:
        return _INT16 if values <= _BYTES_IN_INT16 else _INT32
    return _INT32 if dtype == _INT16 else _SINGLE if dtype == _SINGLE else _DOUBLE
