"""Parts of planes whose windows slide: some planes, and a band of windows along their longest axis.

What is computed meanwhile takes no more memory than a few copies of a part, and nobody waits long until it stops.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from poolservice.specs import Window
from poolservice_server.kernel_thresholds import SLIDING_BAND_VALUES
from poolservice_server.pool_stage import SpecResult, Stop
from poolservice_server.pooling.array_types import Array
from poolservice_server.pooling.interop import HALF_DTYPES, narrow
from poolservice_server.pooling.numpy_kernels.sliding_axis import Axis, Band, Combination, axes_of, bands, combine_axis

#: Pools planes (P, *spatial), P > 0, any strides; raises WorkStopped if nobody waits for the result.
SlidingKernel = Callable[[Array, Stop], SpecResult]

#: Makes the kernel of a spec for planes of a spatial shape and dtype; None if torch reads each value seldom enough.
SlidingFactory = Callable[[Any, tuple[int, ...], np.dtype], SlidingKernel | None]

# More positions than any axis has.
_WHOLE = 2**62


class Part(NamedTuple):
    """The windows of some planes that lie in one band of the longest axis.

    Attributes:
        values: the part of the planes that they cover, (P, *spatial of the part), any strides.
        spatial: the spatial shape of the whole planes.
        window: the window.
        axes: the windows along each axis.
        bands: their band along each axis.
    """

    values: Array
    spatial: tuple[int, ...]
    window: Window
    axes: list[Axis]
    bands: list[Band]


def in_bands(planes: Array, window: Window, pool: Callable[[Part, Stop], tuple[Array, ...]], stop: Stop) -> SpecResult:
    """Pool the planes band by band.

    Args:
        planes: (P, *spatial), P > 0, any strides.
        window: the window.
        pool: returns the values of a part, and its indices if they are asked for.
        stop: passed on to `pool`.
    """
    spatial = planes.shape[1:]
    axes = axes_of(window, spatial)
    longest = max(range(len(spatial)), key=spatial.__getitem__)
    whole = [next(bands(axis, _WHOLE)) for axis in axes]
    across = planes.size // spatial[longest]
    results: list[Array] = []
    for band in bands(axes[longest], SLIDING_BAND_VALUES // across):
        index = (slice(None),) * (longest + 1)
        part_bands = [*whole[:longest], band, *whole[longest + 1 :]]
        covered = (slice(None), *(part_band.inside for part_band in part_bands))
        pooled = pool(Part(planes[covered], spatial, window, axes, part_bands), stop)
        if band.windows.stop - band.windows.start == axes[longest].window_count:
            return SpecResult(*pooled)
        if not results:
            results = [
                np.empty((len(planes), *(axis.window_count for axis in axes)), values.dtype) for values in pooled
            ]
        for result, values in zip(results, pooled, strict=True):
            result[(*index, band.windows)] = values
    return SpecResult(*results)


def combined(part: Part, values: Array, padding: float, combination: Combination, stop: Stop) -> Array:
    """Return the combination of each window of the part, whose values are given in the type to combine in."""
    outer, inner = values.size, 1
    for axis, band in zip(reversed(part.axes), reversed(part.bands), strict=True):
        size = band.inside.stop - band.inside.start
        outer //= size
        if (axis.kernel, axis.window_count, axis.before) != (1, axis.size, 0):
            values = combine_axis(values.reshape(outer, size, inner), axis, band, padding, combination, stop)
        inner *= band.windows.stop - band.windows.start
    return values.reshape(len(part.values), *(band.windows.stop - band.windows.start for band in part.bands))


def rounded(values: Array, dtype: np.dtype) -> Array:
    """Round what was computed from planes of `dtype` to the dtype of the result."""
    if dtype in HALF_DTYPES:
        return narrow(values, dtype)
    return values.astype(np.float32, copy=False) if dtype.kind in "iu" and values.dtype.kind == "f" else values
