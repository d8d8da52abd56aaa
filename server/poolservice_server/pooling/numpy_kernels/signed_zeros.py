"""The signs of zeros: 0.0 and -0.0 are equal, and of several in a window it is the first that counts.

numpy's maxima and minima give either. Which of them may be the wrong one is seldom open.
"""

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# So few values are sooner counted as they are than compared first.
_FEW = 2048

_INTEGER = {2: np.int16, 4: np.int32, 8: np.int64}


def are_open(planes: Array, pooled: Array) -> bool:
    """Whether some extreme in `pooled` may be a zero of the other sign than the first one of its window."""
    if planes.dtype.kind != "f":
        return False
    size = pooled.size
    # The smaller of the two is sooner looked through, and mostly settles it.
    if size < _FEW:
        if np.count_nonzero(pooled) == size:
            return False
    elif 2 * size < planes.size and not np.count_nonzero(pooled == 0):
        return False
    return holds_negative_zero(planes)


def holds_negative_zero(planes: Array) -> bool:
    """Whether some value of these floats is -0.0."""
    if planes.size == 0:
        return False
    integers = np.ascontiguousarray(planes).view(_INTEGER[planes.itemsize])
    # Its sign bit alone is set, as is that of the least integer.
    return int(integers.min()) == -1 << 8 * planes.itemsize - 1
