"""The sums of integers that each type holds without rounding, and the types to add in."""

import numpy as np

#: float64 holds every integer up to this one.
INTEGERS_IN_FLOAT64 = 2**53

#: float32 holds the sum of this many uint8 or int8 values.
BYTES_IN_FLOAT32 = 2**16

#: float32 holds the sum of this many int16 values.
INT16S_IN_FLOAT32 = 2**9

#: int16 holds the sum of this many uint8 or int8 values.
BYTES_IN_INT16 = 2**7

#: uint16 holds the sum of 257 uint8 values; a power of two divides more sizes.
BYTES_IN_UINT16 = 2**8

_BYTES = (np.dtype(np.uint8), np.dtype(np.int8))
_INT16, _INT32, _INT64 = np.dtype(np.int16), np.dtype(np.int32), np.dtype(np.int64)
_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)


def float_for_sum(dtype: np.dtype, count: int) -> np.dtype:
    """Return the float dtype in which the mean of `count` values of `dtype` is computed.

    It holds the sum of the values if they are integers. int64 is the exception: see `sum_fits_float64`.
    """
    return _FLOAT32 if dtype == _FLOAT32 or (dtype in _BYTES and count <= BYTES_IN_FLOAT32) else _FLOAT64


def narrowest_for_sum(dtype: np.dtype, count: int) -> np.dtype:
    """Return the narrowest type in which numpy adds `count` values of `dtype`; a float keeps its own type.

    It holds the sum of the values if they are integers. Of int16, `count` may be at most 2^16. int64 is the exception:
    see `sum_fits_float64`.
    """
    if dtype in _BYTES:
        return _INT16 if count <= BYTES_IN_INT16 else _INT32
    return _INT32 if dtype == _INT16 else _FLOAT32 if dtype == _FLOAT32 else _FLOAT64


def sliding_for_sum(dtype: np.dtype, count: int) -> np.dtype:
    """Return the type in which sliding windows add `count` values of `dtype`: exact for integers other than int64."""
    if dtype.kind not in "iu":
        return _FLOAT64 if dtype == _FLOAT64 else _FLOAT32
    if dtype in _BYTES and count <= BYTES_IN_INT16:
        return _INT16
    largest = max(-int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    return _INT32 if largest * count < 2**31 else _INT64


def sum_fits_float64(integers: np.ndarray, count: int) -> bool:
    """Return True if float64 holds the sum of any `count` of these integers."""
    return len(integers) == 0 or max(int(integers.max()), -int(integers.min())) * count < INTEGERS_IN_FLOAT64
