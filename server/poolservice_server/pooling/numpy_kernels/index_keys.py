"""Integer keys of the values of a plane, in the order that decides which value a window's maximum or minimum is.

The largest key in a window belongs to the value that torch takes: NaN wins over every other value, and the last NaN
over the others; of equal values the first one in row-major order wins; zeros of both signs are equal. No two values of
a plane have the same key, so a maximum of keys may be computed in any order.
"""

import numpy as np

from poolservice_server.pooling.array_types import Array
from poolservice_server.pooling.interop import HALF_DTYPES, widen

#: Lower than every key.
NO_KEY = np.iinfo(np.int64).min

_LOW_BITS = 2**32 - 1
_NAN = 2**31 - 1


def keys_with_positions(values: Array, positions: Array, *, minimum: bool) -> Array:
    """Return the keys of values of at most 32 bits; `positions_of` finds the position in a key.

    Args:
        values: of a dtype of at most 32 bits.
        positions: their positions in their planes, int64, at most 2^32 - 1.
        minimum: whether the smallest value has the largest key.
    """
    if values.dtype.kind in "iu":
        keys = values.astype(np.int64)
        if minimum:
            np.invert(keys, out=keys)
        keys <<= 32
        keys |= _LOW_BITS - positions
        return keys
    if values.dtype in HALF_DTYPES:
        values = widen(values)
    # Adding zero turns -0.0 into 0.0.
    floats = (-values if minimum else values) + np.float32(0)
    nan = np.isnan(floats)
    bits = floats.view(np.int32)
    # As integers, negative floats are in reverse order.
    bits ^= (bits >> 31) & np.int32(_NAN)
    keys = bits.astype(np.int64)
    keys <<= 32
    keys |= _LOW_BITS - positions
    if nan.any():
        np.add(positions, _NAN << 32, out=keys, where=nan)
    return keys


def positions_of(keys: Array, *, floats: bool) -> Array:
    """Return the position in each key of `keys_with_positions`; `floats` says whether the values were floats."""
    positions = keys & _LOW_BITS
    np.subtract(_LOW_BITS, positions, out=positions, where=(keys >> 32) != _NAN if floats else True)
    return positions


def ranks_and_order(rows: Array, *, minimum: bool) -> tuple[Array, Array]:
    """Return the keys of values of any dtype, and the order that `positions_in_order` needs; this sorts each plane.

    Args:
        rows: the flat planes, (P, values).
        minimum: whether the smallest value has the largest key.
    """
    count = rows.shape[1]
    # A stable sort keeps equal values in the order of their positions, and the first of them needs the largest key.
    ordered = np.argsort(rows if minimum else rows[:, ::-1], 1, "stable")
    order = ordered[:, ::-1] if minimum else count - 1 - ordered
    keys = np.empty(rows.shape, np.int64)
    np.put_along_axis(keys, order, np.arange(count)[None], 1)
    if rows.dtype.kind == "f":
        np.copyto(keys, np.arange(count, 2 * count), where=np.isnan(rows))
    return keys, order


def positions_in_order(keys: Array, order: Array) -> Array:
    """Return the positions of keys (P, windows) of `ranks_and_order`, which may include `NO_KEY`."""
    count = order.shape[1]
    positions: Array = np.take_along_axis(order, keys.clip(0, count - 1), 1)
    np.subtract(keys, count, out=positions, where=keys >= count)
    return positions
