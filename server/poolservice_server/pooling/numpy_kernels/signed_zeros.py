"""The check that an extreme has the right sign of zero.

0.0 and -0.0 compare equal. torch takes the sign of the first zero in a window, numpy's maxima and minima that of any.
Only a zero among the results of planes that hold -0.0 can differ, which is rare; torch then pools those planes.
"""

import numpy as np

from poolservice_server.kernel_thresholds import ZERO_CHECK_MAX_COUNTED
from poolservice_server.pooling.array_types import Array, CompleteKernel, Kernel

_INTEGER_OF_SIZE = {2: np.int16, 4: np.int32, 8: np.int64}


def checked(extreme: CompleteKernel | None) -> Kernel | None:
    """Return the kernel with the check: it returns None if some zero may have the wrong sign."""
    if extreme is None:
        return None

    def run(planes: Array) -> Array | None:
        extremes = extreme(planes)
        return None if may_be_wrong(planes, extremes) else extremes

    return run


def may_be_wrong(planes: Array, extremes: Array) -> bool:
    """Return True if some value in `extremes` may be a zero with another sign than the first zero of its window."""
    if planes.dtype.kind != "f":
        return False
    size = extremes.size
    # Look at the smaller of the two arrays first; that mostly decides.
    if size < ZERO_CHECK_MAX_COUNTED:
        if np.count_nonzero(extremes) == size:
            return False
    elif 2 * size < planes.size and not np.count_nonzero(extremes == 0):
        return False
    return holds_negative_zero(planes)


def holds_negative_zero(planes: Array) -> bool:
    """Return True if some of these floats is -0.0."""
    if planes.size == 0:
        return False
    integers = np.ascontiguousarray(planes).view(_INTEGER_OF_SIZE[planes.itemsize])
    # -0.0 has only its sign bit set, as the smallest integer has.
    return int(integers.min()) == -1 << 8 * planes.itemsize - 1
