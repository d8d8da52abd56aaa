"""MedianPool and RankPool, 1d to 3d: the value of a rank in each window."""

import math
from dataclasses import dataclass
from typing import ClassVar

from poolservice.errors import InvalidRequest
from poolservice.specs.base import Size
from poolservice.specs.result_types import Values
from poolservice.specs.validation import MAX_SIZE
from poolservice.specs.windows import Window, WindowOrPlaneSpec


@dataclass(frozen=True, repr=False)
class _MedianPool(WindowOrPlaneSpec[Values]):
    """Median of each window: of an even number of values the lower of the two middle ones, as torch.median.

    out(i) = the value of rank floor((n + 1) / 2), counted from the smallest, of the n values of W(i), where W(i) is the
    window at output position i.

    Shape: (C, *) or (N, C, *) to (..., *out); see `poolservice.specs.WindowSpec` for the output size. Without a
    `kernel_size`, each dimension of *out is 1.

    Range: each value of the result is a value of the input. The result has the input's dtype. 0.0 equals -0.0, and a
    zero may have either sign.

    NaN: a NaN gives NaN in the windows that hold it. An infinity is a value like any other.

    Args:
        kernel_size: window size in elements, at least 1: one int for all spatial dimensions, or one per dimension.
            Default: each whole plane.
        stride: distance between windows in elements, at least 1: one int, or one per dimension. Default:
            `kernel_size`.
        padding: elements added on both sides, 0 to half of `kernel_size`: one int, or one per dimension. They belong to
            no window, so a window at the edge has fewer values, and its median is theirs. Default: 0.
        ceil_mode: round the output size up instead of down, so that a last, partly filled window counts. Default:
            False.

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: torch.median; Tukey, "Exploratory Data Analysis", 1977.
    """

    operator: ClassVar[str] = "median_pool"
    keeps_dtype: ClassVar[bool] = True
    kernel_size: Size | None = None
    stride: Size | None = None
    padding: Size = 0
    ceil_mode: bool = False


class MedianPool1d(_MedianPool):
    """Median of each window, over one dimension."""

    spatial_dims = 1


class MedianPool2d(_MedianPool):
    """Median of each window, over two dimensions."""

    spatial_dims = 2


class MedianPool3d(_MedianPool):
    """Median of each window, over three dimensions."""

    spatial_dims = 3


@dataclass(frozen=True, repr=False)
class _RankPool(WindowOrPlaneSpec[Values]):
    """Value of a given rank in each window, as torch.kthvalue: rank 1 is the minimum.

    out(i) = the `rank`-th smallest value of W(i), or with `largest` the `rank`-th largest, where W(i) is the window at
    output position i.

    Shape: (C, *) or (N, C, *) to (..., *out); see `poolservice.specs.WindowSpec` for the output size. Without a
    `kernel_size`, each dimension of *out is 1.

    Range: each value of the result is a value of the input. The result has the input's dtype. 0.0 equals -0.0, and a
    zero may have either sign.

    NaN: a NaN gives NaN in the windows that hold it. An infinity is a value like any other.

    Args:
        rank: the rank, from 1 to the number of values of a window. A partly filled window with fewer values gives its
            last one: the largest, or with `largest` the smallest. Required.
        kernel_size: window size in elements, at least 1: one int for all spatial dimensions, or one per dimension.
            Default: each whole plane.
        stride: distance between windows in elements, at least 1: one int, or one per dimension. Default:
            `kernel_size`.
        padding: elements added on both sides, 0 to half of `kernel_size`: one int, or one per dimension. They do not
            count. Default: 0.
        ceil_mode: round the output size up instead of down, so that a last, partly filled window counts. Default:
            False.
        largest: count ranks from the largest value instead of the smallest. Default: False.

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: torch.kthvalue; David and Nagaraja, "Order Statistics", 2003.
    """

    operator: ClassVar[str] = "rank_pool"
    keeps_dtype: ClassVar[bool] = True
    rank: int
    kernel_size: Size | None = None
    stride: Size | None = None
    padding: Size = 0
    ceil_mode: bool = False
    largest: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set_integer("rank", 1, MAX_SIZE)
        self._set_flag("largest")
        if self.kernel_size is not None:
            self._check_rank(self.window)

    def window_in(self, spatial: tuple[int, ...]) -> Window:
        """Return the window for planes of a spatial shape.

        Raises:
            InvalidRequest: it has fewer values than `rank`.
        """
        window = super().window_in(spatial)
        self._check_rank(window)
        return window

    def _check_rank(self, window: Window) -> None:
        count = math.prod(window.kernel_size)
        if self.rank > count:
            raise InvalidRequest(
                f"must be at most {count}, the number of values of a window; got {self.rank}", field="rank"
            )


class RankPool1d(_RankPool):
    """Value of a given rank in each window, over one dimension."""

    spatial_dims = 1


class RankPool2d(_RankPool):
    """Value of a given rank in each window, over two dimensions."""

    spatial_dims = 2


class RankPool3d(_RankPool):
    """Value of a given rank in each window, over three dimensions."""

    spatial_dims = 3
