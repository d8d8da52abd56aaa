"""TopKAvgPool and TrimmedMeanPool, 1d to 3d: the mean of some of the sorted values of each window."""

import math
from dataclasses import dataclass
from typing import ClassVar

from poolservice.errors import InvalidRequest
from poolservice.specs.base import Size
from poolservice.specs.result_types import Values
from poolservice.specs.validation import MAX_SIZE, real, shown_number
from poolservice.specs.windows import Window, WindowOrPlaneSpec


@dataclass(frozen=True, repr=False)
class _TopKAvgPool(WindowOrPlaneSpec[Values]):
    """Mean of the k largest values of each window: k = 1 is the maximum, k = all the mean (Durand et al., 2016).

    out(i) = sum of the `k` largest values of W(i) / k, where W(i) is the window at output position i.

    Shape: (C, *) or (N, C, *) to (..., *out); see `poolservice.specs.WindowSpec` for the output size. Without a
    `kernel_size`, each dimension of *out is 1.

    Range: a sum beyond the range of the dtype that it is computed in, float64 for float64 and else float32, becomes
    infinite or NaN. Floating-point input keeps its dtype; integer input gives float32.

    NaN: a NaN gives NaN in the windows that hold it. An infinity among the values that count gives the same infinity,
    and infinities of both signs among them give NaN.

    Args:
        k: the number of values, from 1 to the number of values of a window. In a partly filled window with fewer
            values, all of them count. Required.
        kernel_size: window size in elements, at least 1: one int for all spatial dimensions, or one per dimension.
            Default: each whole plane.
        stride: distance between windows in elements, at least 1: one int, or one per dimension. Default:
            `kernel_size`.
        padding: elements added on both sides, 0 to half of `kernel_size`: one int, or one per dimension. They do not
            count. Default: 0.
        ceil_mode: round the output size up instead of down, so that a last, partly filled window counts. Default:
            False.

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: Durand, Thome and Cord, "WELDON: Weakly Supervised Learning of Deep Convolutional Neural Networks", 2016.
    """

    operator: ClassVar[str] = "top_k_avg_pool"
    k: int
    kernel_size: Size | None = None
    stride: Size | None = None
    padding: Size = 0
    ceil_mode: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set_integer("k", 1, MAX_SIZE)
        if self.kernel_size is not None:
            self._check_k(self.window)

    def window_in(self, spatial: tuple[int, ...]) -> Window:
        """Return the window for planes of a spatial shape.

        Raises:
            InvalidRequest: it has fewer than `k` values.
        """
        window = super().window_in(spatial)
        self._check_k(window)
        return window

    def _check_k(self, window: Window) -> None:
        count = math.prod(window.kernel_size)
        if self.k > count:
            raise InvalidRequest(f"must be at most {count}, the number of values of a window; got {self.k}", field="k")


class TopKAvgPool1d(_TopKAvgPool):
    """Mean of the k largest values of each window, over one dimension."""

    spatial_dims = 1


class TopKAvgPool2d(_TopKAvgPool):
    """Mean of the k largest values of each window, over two dimensions."""

    spatial_dims = 2


class TopKAvgPool3d(_TopKAvgPool):
    """Mean of the k largest values of each window, over three dimensions."""

    spatial_dims = 3


@dataclass(frozen=True, repr=False)
class _TrimmedMeanPool(WindowOrPlaneSpec[Values]):
    """Mean of each window without its smallest and largest values, as scipy.stats.trim_mean.

    out(i) = mean of the n - 2 * g values of W(i) that remain when its g smallest and its g largest are cut off, where
    W(i) is the window at output position i and n is the number of its values. g is floor(`proportiontocut` * n), or
    `cut`.

    Shape: (C, *) or (N, C, *) to (..., *out); see `poolservice.specs.WindowSpec` for the output size. Without a
    `kernel_size`, each dimension of *out is 1.

    Range: a sum beyond the range of the dtype that it is computed in, float64 for float64 and else float32, becomes
    infinite or NaN. Floating-point input keeps its dtype; integer input gives float32.

    NaN: a NaN gives NaN in the windows that hold it. An infinity among the values that count gives the same infinity,
    and infinities of both signs among them give NaN.

    Args:
        kernel_size: window size in elements, at least 1: one int for all spatial dimensions, or one per dimension.
            Default: each whole plane.
        stride: distance between windows in elements, at least 1: one int, or one per dimension. Default:
            `kernel_size`.
        padding: elements added on both sides, 0 to half of `kernel_size`: one int, or one per dimension. They do not
            count. Default: 0.
        ceil_mode: round the output size up instead of down, so that a last, partly filled window counts. Default:
            False.
        proportiontocut: the share of a window's values that is cut off at each end, from 0 to less than 0.5. Of a
            partly filled window, it is the share of the values that it has. Either it or `cut` is required.
        cut: instead, the number of values that are cut off at each end, from 0 to less than half of the values of a
            window. Of a partly filled window with too few values, the middle one or the middle two remain. Either it or
            `proportiontocut` is required.

    Raises:
        InvalidRequest: a parameter is invalid, or not exactly one of `proportiontocut` and `cut` is given; `field` is
            its name.

    Source: scipy.stats.trim_mean; Tukey, "The Future of Data Analysis", 1962.
    """

    operator: ClassVar[str] = "trimmed_mean_pool"
    kernel_size: Size | None = None
    stride: Size | None = None
    padding: Size = 0
    ceil_mode: bool = False
    proportiontocut: float | None = None
    cut: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.proportiontocut is None) == (self.cut is None):
            if self.cut is None:
                raise InvalidRequest("is required, unless cut is given", field="proportiontocut")
            raise InvalidRequest("goes without cut; leave one of them out", field="proportiontocut")
        if self.cut is not None:
            self._set_integer("cut", 0, MAX_SIZE)
            if self.kernel_size is not None:
                self._check_cut(self.window)
            return
        share = real("proportiontocut", self.proportiontocut)
        if not 0 <= share < 0.5:
            raise InvalidRequest(
                f"must be at least 0 and less than 0.5, which would leave nothing; got {shown_number(share)}",
                field="proportiontocut",
            )
        self._set("proportiontocut", share)

    def window_in(self, spatial: tuple[int, ...]) -> Window:
        """Return the window for planes of a spatial shape.

        Raises:
            InvalidRequest: cutting off `cut` values at each end would leave none.
        """
        window = super().window_in(spatial)
        self._check_cut(window)
        return window

    def _check_cut(self, window: Window) -> None:
        count = math.prod(window.kernel_size)
        if self.cut is not None and 2 * self.cut >= count:
            raise InvalidRequest(
                f"must be at most {(count - 1) // 2}, because a window has {count} values; got {self.cut}", field="cut"
            )


class TrimmedMeanPool1d(_TrimmedMeanPool):
    """Mean of each window without its smallest and largest values, over one dimension."""

    spatial_dims = 1


class TrimmedMeanPool2d(_TrimmedMeanPool):
    """Mean of each window without its smallest and largest values, over two dimensions."""

    spatial_dims = 2


class TrimmedMeanPool3d(_TrimmedMeanPool):
    """Mean of each window without its smallest and largest values, over three dimensions."""

    spatial_dims = 3
