"""Whole planes to one value each, in numpy, in an order that depends on the size of a plane and on nothing else.

On the processor only. What is given back folds planes (P, *spatial) of one shape and type, any strides, to
(P, 1, ...), and is made once for them.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from poolservice_server.pooling.exact_sums import WHOLE_IN_FLOAT64

Array = np.ndarray[Any, Any]
Fold = Callable[[Array], Array]

_SINGLE = np.dtype(np.float32)

# Values that are added in 4 to 16 sums side by side without drifting, and int16s whose sum float32 holds.
_LONGEST_BLOCK = 1024
_LONGEST_BLOCK_OF_WHOLE = 512

# uint16 holds the sum of 257 bytes.
_BYTES_IN_UINT16 = 256


def interleaved(planes: Array) -> bool:
    """Whether the planes lie value beside value, as the channels of a picture do, not one behind the other."""
    return not planes.flags.c_contiguous and np.moveaxis(planes, 0, -1).flags.c_contiguous


def in_float64(planes: Array, values: int) -> bool:
    """Whether float64 holds the sum of any so many of these integers."""
    return len(planes) == 0 or max(int(planes.max()), -int(planes.min())) * values < WHOLE_IN_FLOAT64


def mean(spatial: tuple[int, ...], dtype: np.dtype) -> Fold:
    """The mean of each plane: of floats in their type, of integers exact and rounded to float32.

    int64 for which `in_float64` holds of a plane's values.

    Blocks of a plane are summed in 4 to 16 sums side by side, too short to drift, and then the blocks' sums.
    """
    if dtype.kind == "f":
        return float_mean(spatial, dtype)
    if dtype in (np.int8, np.int16):
        return _of_singles(spatial)
    if dtype == np.uint8:
        return _byte_mean(spatial)
    return _whole_mean(spatial)


def extreme(spatial: tuple[int, ...], combine: np.ufunc) -> Fold:
    """The extreme of each plane, by np.maximum or np.minimum; of several zeros not always the one that counts."""
    count, ones = math.prod(spatial), (1,) * len(spatial)
    # Whole rows against one another, as many values at a time as an instruction takes.
    rows = next(rows for rows in range(min(count, 2**9), 0, -1) if count % rows == 0)
    reduce: Callable[..., Array] = combine.reduce

    def fold(planes: Array) -> Array:
        if interleaved(planes):
            partly = reduce(np.moveaxis(planes, 0, -1).reshape(rows, -1), 0)
            folded: Array = reduce(partly.reshape(-1, len(planes)), 0)
        else:
            folded = reduce(planes.reshape(len(planes), count), 1)
        return folded.reshape(len(planes), *ones)

    return fold


def float_mean(spatial: tuple[int, ...], dtype: np.dtype, *, whole: bool = False) -> Fold:
    """The mean of each plane of float32 or float64; exact but for one rounding where they are `whole` numbers.

    Those are of at most 16 bits, and float32.
    """
    longest = _LONGEST_BLOCK_OF_WHOLE if whole else _LONGEST_BLOCK
    count, ones = math.prod(spatial), (1,) * len(spatial)
    if count <= longest:
        divisor = np.array(count, dtype)

        def fold(planes: Array) -> Array:
            total: Array = np.einsum("pn->p", _in_order(planes).reshape(len(planes), count))
            np.divide(total, divisor, total)
            return total.reshape(len(planes), *ones)

        return fold
    # The longest that leaves no rest, unless that is short.
    block = next((size for size in range(longest, longest // 4, -1) if count % size == 0), longest)
    blocks, rest = divmod(count, block)
    # So few sums of blocks drift no more than a block's values do.
    added_in = dtype if blocks <= longest and not whole else np.dtype(np.float64)

    def fold_blocks(planes: Array) -> Array:
        values = _in_order(planes)
        rows = values.reshape(len(planes), count)[:, : count - rest] if rest else values
        # einsum, unlike a sum, does not warn of infinities of both signs, which give NaN as they should.
        sums = np.einsum("pbn->pb", rows.reshape(len(planes), blocks, block))
        total: Array = np.einsum("pb->p", sums.astype(added_in, copy=False))
        if rest:
            behind = np.einsum("pn->p", values.reshape(len(planes), count)[:, -rest:])
            total = np.einsum("pb->p", np.stack((total, behind), 1))
        np.divide(total, count, total)
        return total.astype(dtype, copy=False).reshape(len(planes), *ones)

    return fold_blocks


def _in_order(planes: Array) -> Array:
    flags = planes.flags
    # What is not aligned would be summed in pieces, wherever those begin.
    return planes if flags.c_contiguous and flags.aligned else planes.copy("C")


def _of_singles(spatial: tuple[int, ...]) -> Fold:
    """The mean of planes of integers of at most 16 bits."""
    fold = float_mean(spatial, _SINGLE, whole=True)
    return lambda planes: fold(planes.astype(_SINGLE, "C"))


def _byte_mean(spatial: tuple[int, ...]) -> Fold:
    count, ones = math.prod(spatial), (1,) * len(spatial)
    of_singles = _of_singles(spatial)

    def fold(planes: Array) -> Array:
        if not interleaved(planes):
            return of_singles(planes)
        return (_interleaved_sums(planes) / count).astype(_SINGLE).reshape(len(planes), *ones)

    return fold


def _interleaved_sums(planes: Array) -> Array:
    """The sum of each plane of interleaved uint8 (P, *spatial), as int64 (P,)."""
    planes_each, values = len(planes), np.moveaxis(planes, 0, -1).reshape(-1)
    # In uint16, as many bytes at a time as that holds, all of the same plane.
    whole = values.size // planes_each // _BYTES_IN_UINT16 * planes_each
    head = values[: whole * _BYTES_IN_UINT16].reshape(_BYTES_IN_UINT16, whole)
    total: Array = head.sum(0, dtype=np.uint16).reshape(-1, planes_each).sum(0, dtype=np.int64)
    total += values[whole * _BYTES_IN_UINT16 :].reshape(-1, planes_each).sum(0, dtype=np.int64)
    return total


def _whole_mean(spatial: tuple[int, ...]) -> Fold:
    """The mean of planes whose sums int64 holds."""
    count, ones = math.prod(spatial), (1,) * len(spatial)

    def fold(planes: Array) -> Array:
        total: Array = np.add.reduce(planes.reshape(len(planes), count), 1, np.int64)
        return (total / count).astype(_SINGLE).reshape(len(planes), *ones)

    return fold
