"""Windows by gathering: the values of each window are taken out of their plane, then combined.

On the processor only, and in numpy. Where slices of whole planes need a dozen calls, this needs two, and so it is
sooner for small planes; and it looks at no value that no window holds. A sum is torch's bit for bit, as that by
slices.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from poolservice.specs import Window
from poolservice_server import shapes

Array = np.ndarray[Any, Any]

# Places of a plane's windows that are worth remembering: 128 KiB of them, for each of as many kinds of windows.
_MOST_PLACES = 2**14
_KINDS = 128

# From so many planes on, a call for each place in the window is sooner than one that walks from plane to plane, for
# windows of so few places.
_MANY_PLANES = 32
FEW_PLACES = 32


class Places(NamedTuple):
    """Where windows lie: for each place in a window its flat position in the plane, one a window.

    Attributes:
        at: (places in a window, windows).
        out: the windows' spatial shape.
        padded: whether some lie in the padding; their position is that of a zero behind the plane.
    """

    at: Array
    out: tuple[int, ...]
    padded: bool


def suit(window: Window, spatial: tuple[int, ...]) -> bool:
    """Whether the windows of a plane are few and small enough."""
    return 1 < math.prod(window.kernel_size) * math.prod(shapes.windows(window, spatial)) <= _MOST_PLACES


@lru_cache(maxsize=_KINDS)
def places(window: Window, spatial: tuple[int, ...], once: bool) -> Places:
    """The windows' places over planes of this spatial shape; see `suit` and `laid`."""
    axes = []
    for d, (size, count) in enumerate(zip(spatial, shapes.windows(window, spatial), strict=True)):
        kernel, stride, padding, dilation = (values[d] for values in window[:4])
        reached = dilation * np.arange(kernel)[:, None] + stride * np.arange(count) - padding
        axes.append(np.where(reached < size, reached, -1))
    return laid(axes, spatial, once)


def laid(axes: Sequence[Array], spatial: tuple[int, ...], once: bool) -> Places:
    """The places of windows in planes of this spatial shape.

    Args:
        axes: for each dimension the positions in each window there, (values, windows), negative outside the plane;
            every window holds a value at least.
        spatial: the planes' shape.
        once: whether each value counts once, as in a sum; else the first one of a window stands in for what is outside.
    """
    dims = len(axes)
    at: Array = np.zeros((1,) * 2 * dims, np.intp)
    inside: Array = np.ones((1,) * 2 * dims, np.bool_)
    for d, (size, reached) in enumerate(zip(spatial, axes, strict=True)):
        lies = [1] * 2 * dims
        lies[d], lies[dims + d] = reached.shape
        at = at * size + reached.reshape(lies)
        inside = inside & (reached >= 0).reshape(lies)
    out = at.shape[dims:]
    flat, kept = (values.reshape(-1, math.prod(out)) for values in (at, inside))
    first = np.take_along_axis(flat, kept.argmax(0)[None], 0)
    flat = np.where(kept, flat, math.prod(spatial) if once else first)
    return Places(flat, out, once and not kept.all())


def window_extreme(planes: Array, where: Places, combine: np.ufunc) -> Array:
    """The extreme of each window; of several zeros not always the one that counts."""
    rows = planes.reshape(len(planes), math.prod(planes.shape[1:]))
    values, windows = where.at.shape
    if len(planes) >= _MANY_PLANES and values <= FEW_PLACES:
        pooled = _one_by_one(rows, where.at, combine)
    elif values > windows:
        # The longer side in one run.
        pooled = combine.reduce(rows.take(where.at.T, 1, None, "clip"), 2)
    else:
        pooled = combine.reduce(rows.take(where.at, 1, None, "clip"), 1)
    return pooled.reshape(len(planes), *where.out)


def window_sum(planes: Array, where: Places) -> Array:
    """The sum of each window in the planes' own type, in row-major order, with zeros as padding; a zero of any sign."""
    size = math.prod(planes.shape[1:])
    rows = planes.reshape(len(planes), size)
    if where.padded:
        padded = np.zeros((len(planes), size + 1), planes.dtype)
        padded[:, :size] = rows
        rows = padded
    if len(planes) < _MANY_PLANES and where.at.shape[1] > 1:
        # Adds one place after the other to zeros, as long as the windows lie side by side; unlike a reduction it
        # neither warns of infinities nor needs to be told not to.
        total: Array = np.einsum("pkw->pw", rows.take(where.at, 1, None, "clip"))
    else:
        with np.errstate(invalid="ignore", over="ignore"):
            total = _one_by_one(rows, where.at, np.add)
    return total.reshape(len(planes), *where.out)


def _one_by_one(rows: Array, at: Array, combine: np.ufunc) -> Array:
    combined: Array = rows.take(at[0], 1, None, "clip")
    taken = np.empty_like(combined)
    for one in at[1:]:
        rows.take(one, 1, taken, "clip")
        combine(combined, taken, out=combined)
    return combined
