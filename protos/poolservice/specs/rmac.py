"""RMAC2d: the sum of the maxima of a grid of square regions, as one unit vector."""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from poolservice.specs.base import SampleSpec
from poolservice.specs.result_types import Values

# The overlap of neighboring regions that the number of regions along the longer side comes closest to.
_OVERLAP = 0.4


class RegionGrid(NamedTuple):
    """The square regions of one scale: one at each combination of a top and a left edge.

    Attributes:
        size: the side of each region, in elements.
        tops: the first row of each region.
        lefts: the first column of each region.
    """

    size: int
    tops: tuple[int, ...]
    lefts: tuple[int, ...]


@dataclass(frozen=True, repr=False)
class RMAC2d(SampleSpec[Values]):
    """Sum of the maxima of a grid of square regions, as a unit vector (Tolias, Sicre and Jegou, 2016).

    out = v / |v|, where v is the sum of m(R) / |m(R)| over the regions R, m(R) is the vector of the maxima of the
    channels within R, and |v| is the Euclidean norm. At scale l, from 1 to `levels`, the side of a region is
    floor(2 * min(H, W) / (l + 1)), and there are l regions along the shorter side. Along the longer side there are 1
    to 6 more, the number with which the regions of scale 1 overlap by nearly 40 %. The regions lie at equal distances,
    rounded down as in the authors' code. Scales whose regions would be empty are left out. The whole plane is no region
    of its own, which some other implementations such as cirtorch add, and the regions are not whitened. Positions are
    computed in float64, as in the authors' code; cirtorch's float32 gives other regions for a few sizes, such as 5 by
    9.

    A zero vector stays zero, and each vector's largest value is divided out first.

    Shape: (C, H, W) or (N, C, H, W) to (C,) or (N, C).

    Range: nothing overflows. Floating-point input keeps its dtype; integer input gives float32.

    NaN: a NaN gives NaN in the whole vector of its sample. So does an infinity among the maxima.

    Args:
        levels: the number of scales, 1 to 16. Default: 3.

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: Tolias, Sicre and Jegou, "Particular object retrieval with integral max-pooling of CNN activations", 2016.
    """

    operator: ClassVar[str] = "rmac"
    spatial_dims = 2
    levels: int = 3

    def __post_init__(self) -> None:
        self._set_integer("levels", 1, 16)

    def sample_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return (C,)."""
        return shape[:1]

    def grids(self, height: int, width: int) -> list[RegionGrid]:
        """Return the regions of each scale, for planes of a height and a width."""
        shorter, longer = sorted((height, width))
        more = 0
        if longer > shorter:
            area = shorter**2
            # Rounded like the authors' code, because several numbers may be equally close.
            overlaps = [(area - shorter * ((longer - shorter) / number)) / area for number in range(1, 7)]
            more = 1 + min(range(6), key=lambda index: abs(overlaps[index] - _OVERLAP))
        grids = []
        for level in range(1, self.levels + 1):
            size = 2 * shorter // (level + 1)
            if size:
                tops = _starts(height, size, level + (more if height > width else 0))
                grids.append(RegionGrid(size, tops, _starts(width, size, level + (more if width > height else 0))))
        return grids


def _starts(length: int, size: int, count: int) -> tuple[int, ...]:
    """Return the first element of each of `count` regions along a side."""
    distance = (length - size) / (count - 1) if count > 1 else 0.0
    # The authors' code rounds the centers down, less one, with the rounding errors of their sum.
    center = size // 2 - 1
    return tuple(math.floor(center + number * distance) - center for number in range(count))
