"""Kernels that reduce a whole plane to one value, in an order that depends only on the plane's size.

A kernel returns (P, 1, ...) for planes (P, *spatial).
"""

import math
from collections.abc import Callable

import numpy as np

from poolservice_server.kernel_thresholds import MAX_WIDENED_VALUES
from poolservice_server.pooling.array_types import Array, CompleteKernel
from poolservice_server.pooling.sum_dtypes import BYTES_IN_UINT16, INT16S_IN_FLOAT32

_FLOAT32 = np.dtype(np.float32)

# Values that einsum adds in 4 to 16 parallel sums without a rounding error that matters.
_MAX_BLOCK = 1024


def is_interleaved(planes: Array) -> bool:
    """Return True if the planes lie value by value, as the channels of an image do, not one after the other."""
    return not planes.flags.c_contiguous and np.moveaxis(planes, 0, -1).flags.c_contiguous


def mean(spatial: tuple[int, ...], dtype: np.dtype) -> CompleteKernel:
    """Return the kernel of the mean of each plane: of floats in their type, of integers exact and rounded to float32.

    float64 must hold the sums of int64 planes, see `exact_sums.sum_fits_float64`. Floats are added in blocks, each in 4
    to 16 parallel sums, and then the sums of the blocks are added. Blocks are too short for rounding errors to grow.
    """
    if dtype.kind == "f":
        return float_mean(spatial, dtype)
    if dtype in (np.int8, np.int16) and math.prod(spatial) <= MAX_WIDENED_VALUES:
        return _mean_in_float32(spatial)
    if dtype == np.uint8:
        return _uint8_mean(spatial)
    return _mean_in_int64(spatial)


def extreme(spatial: tuple[int, ...], combine: np.ufunc) -> CompleteKernel:
    """Return the kernel of the maximum or minimum of each plane; `combine` is np.maximum or np.minimum.

    A zero may have the sign of any zero in the plane.
    """
    count, ones = math.prod(spatial), (1,) * len(spatial)
    # Rows are combined with one another first, as many values at a time as an instruction takes.
    rows = next(rows for rows in range(min(count, 2**9), 0, -1) if count % rows == 0)
    reduce: Callable[..., Array] = combine.reduce

    def run(planes: Array) -> Array:
        if is_interleaved(planes):
            partial = reduce(np.moveaxis(planes, 0, -1).reshape(rows, -1), 0)
            extremes: Array = reduce(partial.reshape(-1, len(planes)), 0)
        else:
            extremes = reduce(planes.reshape(len(planes), count), 1)
        return extremes.reshape(len(planes), *ones)

    return run


def float_mean(spatial: tuple[int, ...], dtype: np.dtype, *, integers: bool = False) -> CompleteKernel:
    """Return the kernel of the mean of each plane of float32 or float64.

    Args:
        spatial: the planes' spatial shape.
        dtype: float32 or float64.
        integers: whether the values are integers of at most 16 bits, as float32; the mean is then exact but for one
            rounding.
    """
    max_block = INT16S_IN_FLOAT32 if integers else _MAX_BLOCK
    count, ones = math.prod(spatial), (1,) * len(spatial)
    if count <= max_block:
        divisor = np.array(count, dtype)

        def run(planes: Array) -> Array:
            total: Array = np.einsum("pn->p", _aligned(planes).reshape(len(planes), count))
            np.divide(total, divisor, total)
            return total.reshape(len(planes), *ones)

        return run
    # The longest block that leaves no rest, unless that is short.
    block = next((size for size in range(max_block, max_block // 4, -1) if count % size == 0), max_block)
    blocks, rest = divmod(count, block)
    # A few sums of blocks lose no more than the values of one block do.
    added_in = dtype if blocks <= max_block and not integers else np.dtype(np.float64)

    def run_in_blocks(planes: Array) -> Array:
        values = _aligned(planes)
        rows = values.reshape(len(planes), count)[:, : count - rest] if rest else values
        # Unlike a sum, einsum does not warn about infinities of both signs, which give NaN as they should.
        sums = np.einsum("pbn->pb", rows.reshape(len(planes), blocks, block))
        total: Array = np.einsum("pb->p", sums.astype(added_in, copy=False))
        if rest:
            rest_sum = np.einsum("pn->p", values.reshape(len(planes), count)[:, -rest:])
            total = np.einsum("pb->p", np.stack((total, rest_sum), 1))
        np.divide(total, count, total)
        return total.astype(dtype, copy=False).reshape(len(planes), *ones)

    return run_in_blocks


def _aligned(planes: Array) -> Array:
    """Return the planes contiguous and aligned."""
    # einsum splits unaligned sums at positions that depend on the address.
    flags = planes.flags
    return planes if flags.c_contiguous and flags.aligned else planes.copy("C")


def _mean_in_float32(spatial: tuple[int, ...]) -> CompleteKernel:
    """Return the kernel of the mean of planes of integers of at most 16 bits."""
    mean_of_floats = float_mean(spatial, _FLOAT32, integers=True)
    return lambda planes: mean_of_floats(planes.astype(_FLOAT32, "C"))


def _uint8_mean(spatial: tuple[int, ...]) -> CompleteKernel:
    count, ones = math.prod(spatial), (1,) * len(spatial)
    # Both have the same bits.
    mean_of_planes = _mean_in_float32(spatial) if count <= MAX_WIDENED_VALUES else _mean_in_int64(spatial)

    def run(planes: Array) -> Array:
        if not is_interleaved(planes):
            return mean_of_planes(planes)
        return (_interleaved_sums(planes) / count).astype(_FLOAT32).reshape(len(planes), *ones)

    return run


def _interleaved_sums(planes: Array) -> Array:
    """Return the sum of each plane of interleaved uint8 (P, *spatial), as int64 (P,)."""
    channels, values = len(planes), np.moveaxis(planes, 0, -1).reshape(-1)
    # Add in uint16, as many bytes at a time as it holds, all of them of the same plane.
    columns = values.size // channels // BYTES_IN_UINT16 * channels
    table = values[: columns * BYTES_IN_UINT16].reshape(BYTES_IN_UINT16, columns)
    total: Array = table.sum(0, dtype=np.uint16).reshape(-1, channels).sum(0, dtype=np.int64)
    total += values[columns * BYTES_IN_UINT16 :].reshape(-1, channels).sum(0, dtype=np.int64)
    return total


def _mean_in_int64(spatial: tuple[int, ...]) -> CompleteKernel:
    """Return the kernel of the mean of planes whose sums int64 holds."""
    count, ones = math.prod(spatial), (1,) * len(spatial)

    def run(planes: Array) -> Array:
        total: Array = np.add.reduce(planes.reshape(len(planes), count), 1, np.int64)
        return (total / count).astype(_FLOAT32).reshape(len(planes), *ones)

    return run
