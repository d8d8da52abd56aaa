"""SpatialPyramidPool1d, 2d and 3d: the tiles of several grids over each channel, as one vector."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from poolservice.errors import InvalidRequest
from poolservice.specs.base import SampleSpec
from poolservice.specs.result_types import Values
from poolservice.specs.validation import integer, is_list, shown


@dataclass(frozen=True, repr=False)
class _SpatialPyramidPool(SampleSpec[Values]):
    """Maximum or mean of each tile of several grids, as one vector (He et al., 2014).

    out(i) = max of x over tile i, or its mean. For each level L, the input is divided into L tiles along each spatial
    dimension, as by AdaptiveMaxPool. The result is, level by level, the values of all tiles, channel by channel.

    Shape: (C, *) or (N, C, *) to (D,) or (N, D), where D = C * sum of L^dims over the levels.

    Range: with "avg", a sum beyond the range of the dtype that it is computed in, float64 for float64 and else float32,
    becomes infinite or NaN. Floating-point input keeps its dtype; integer input gives float32.

    NaN: a NaN gives NaN in the tiles that hold it. An infinity gives the same infinity, unless the maximum leaves it
    out. With "avg", infinities of both signs give NaN.

    Args:
        levels: the number of tiles along each dimension, each 1 to 64, at most 16 levels. Default: (1, 2, 4).
        mode: "max" or "avg". Default: "max".

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: He, Zhang, Ren and Sun, "Spatial Pyramid Pooling in Deep Convolutional Networks for Visual Recognition",
    2014.
    """

    operator: ClassVar[str] = "spatial_pyramid_pool"
    levels: Sequence[int] = (1, 2, 4)
    mode: str = "max"

    def __post_init__(self) -> None:
        if not is_list(self.levels) or not 1 <= len(self.levels) <= 16:
            raise InvalidRequest(
                f"must be a list of 1 to 16 ints, such as (1, 2, 4); got {shown(self.levels)}", field="levels"
            )
        levels = tuple(integer("levels", level) for level in self.levels)
        if not all(1 <= level <= 64 for level in levels):
            raise InvalidRequest(f"must be from 1 to 64 each; got {shown(self.levels)}", field="levels")
        self._set("levels", levels)
        self._set_choice("mode", ("max", "avg"))

    def sample_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return (D,)."""
        return (shape[0] * sum(math.prod((level,) * self.spatial_dims) for level in self.levels),)


class SpatialPyramidPool1d(_SpatialPyramidPool):
    """Maximum or mean of each tile of several grids, over one dimension."""

    spatial_dims = 1


class SpatialPyramidPool2d(_SpatialPyramidPool):
    """Maximum or mean of each tile of several grids, over two dimensions."""

    spatial_dims = 2


class SpatialPyramidPool3d(_SpatialPyramidPool):
    """Maximum or mean of each tile of several grids, over three dimensions."""

    spatial_dims = 3
