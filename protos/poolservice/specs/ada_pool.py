"""EMPool, EDSCWPool and AdaPool in one, two and three dimensions: the operators of the paper on AdaPool."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from poolservice.errors import InvalidRequest
from poolservice.specs.base import Size
from poolservice.specs.result_types import Values
from poolservice.specs.tensor_parameter import TensorLike, TensorParameter
from poolservice.specs.validation import shown_range
from poolservice.specs.windows import WindowOrPlaneSpec


@dataclass(frozen=True, repr=False)
class _EMPool(WindowOrPlaneSpec[Values]):
    """Exponential maximum of each window: the mean weighted by the softmax of its values (Stergiou and Poppe, 2021).

    out(i) = sum of x * exp(x) over W(i) / sum of exp(x) over W(i), where W(i) is the window at output position i. These
    are SoftPool's weights and values: the paper on AdaPool uses SoftPool under this name. If exponents are large, the
    largest one of the window is subtracted from them; the authors' code replaces what overflowed instead.

    Shape: (C, *) or (N, C, *) to (..., *out); see `poolservice.specs.WindowSpec` for the output size. Without a
    `kernel_size`, each dimension of *out is 1.

    Range: nothing overflows. Floating-point input keeps its dtype; integer input gives float32.

    NaN: a NaN gives NaN in the windows that hold it. So does an infinity. Either can change the rounding of the
    sample's other results. The authors' code gives 0 instead of NaN.

    Args:
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

    Source: Stergiou and Poppe, "AdaPool: Exponential Adaptive Pooling for Information-Retaining Downsampling", 2021.
    """

    operator: ClassVar[str] = "em_pool"
    kernel_size: Size | None = None
    stride: Size | None = None
    padding: Size = 0
    ceil_mode: bool = False


class EMPool1d(_EMPool):
    """Exponential maximum of each window, over one dimension."""

    spatial_dims = 1


class EMPool2d(_EMPool):
    """Exponential maximum of each window, over two dimensions."""

    spatial_dims = 2


class EMPool3d(_EMPool):
    """Exponential maximum of each window, over three dimensions."""

    spatial_dims = 3


@dataclass(frozen=True, repr=False)
class _EDSCWPool(WindowOrPlaneSpec[Values]):
    """Mean of each window weighted by the similarity of its values to their mean (Stergiou and Poppe, 2021).

    out(i) = sum of x * exp(d) over W(i) / sum of exp(d) over W(i), where W(i) is the window at output position i, a is
    its mean and d = 2 * |x * a| / (x^2 + a^2) is the Dice-Sørensen coefficient of x and a, from 0 to 1. As in the
    authors' code, the coefficient has no sign. It is 0 if x and a are 0, where the authors' code divides by 0 and
    returns 0; this changes no result, because the result is 0 if a is.

    Shape: (C, *) or (N, C, *) to (..., *out); see `poolservice.specs.WindowSpec` for the output size. Without a
    `kernel_size`, each dimension of *out is 1.

    Range: nothing overflows up to magnitudes of 3.4e38, or for float64 of 1.79e308. Between there and the largest
    number, rounding may give inf. Floating-point input keeps its dtype; integer input gives float32.

    NaN: a NaN gives NaN in the windows that hold it. So does an infinity.

    Args:
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

    Source: Stergiou and Poppe, "AdaPool: Exponential Adaptive Pooling for Information-Retaining Downsampling", 2021.
    """

    operator: ClassVar[str] = "edscw_pool"
    kernel_size: Size | None = None
    stride: Size | None = None
    padding: Size = 0
    ceil_mode: bool = False


class EDSCWPool1d(_EDSCWPool):
    """Mean of each window weighted by the similarity of its values to their mean, over one dimension."""

    spatial_dims = 1


class EDSCWPool2d(_EDSCWPool):
    """Mean of each window weighted by the similarity of its values to their mean, over two dimensions."""

    spatial_dims = 2


class EDSCWPool3d(_EDSCWPool):
    """Mean of each window weighted by the similarity of its values to their mean, over three dimensions."""

    spatial_dims = 3


@dataclass(frozen=True, repr=False)
class _AdaPool(WindowOrPlaneSpec[Values]):
    """Weighted sum of EDSCWPool and EMPool (Stergiou and Poppe, 2021).

    out(i) = beta * edscw(i) + (1 - beta) * em(i), where edscw and em are the results of EDSCWPool and EMPool. The
    authors train a beta for each output position: `beta_map`.

    Shape: (C, *) or (N, C, *) to (..., *out); see `poolservice.specs.WindowSpec` for the output size. Without a
    `kernel_size`, each dimension of *out is 1.

    Range: nothing overflows up to magnitudes of 3.4e38, or for float64 of 1.79e308. Between there and the largest
    number, rounding may give inf. Floating-point input keeps its dtype; integer input gives float32.

    NaN: a NaN gives NaN in the windows that hold it. So does an infinity. Either can change the rounding of the
    sample's other results.

    Args:
        kernel_size: window size in elements, at least 1: one int for all spatial dimensions, or one per dimension.
            Default: each whole plane.
        stride: distance between windows in elements, at least 1: one int, or one per dimension. Default:
            `kernel_size`.
        padding: elements added on both sides, 0 to half of `kernel_size`: one int, or one per dimension. They do not
            count. Default: 0.
        ceil_mode: round the output size up instead of down, so that a last, partly filled window counts. Default:
            False.
        beta: weight of EDSCWPool, 0 to 1: one number, or one for each channel. Default: 0.5.
        beta_map: weight of EDSCWPool for each output position, 0 to 1: a tensor of the shape *out, which takes the
            place of `beta`. Default: none.

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: Stergiou and Poppe, "AdaPool: Exponential Adaptive Pooling for Information-Retaining Downsampling", 2021.
    """

    operator: ClassVar[str] = "ada_pool"
    per_channel: ClassVar[tuple[str, ...]] = ("beta",)
    kernel_size: Size | None = None
    stride: Size | None = None
    padding: Size = 0
    ceil_mode: bool = False
    beta: float | Sequence[float] = 0.5
    beta_map: TensorLike = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set_real("beta", 0.0, 1.0, per_channel=True)
        if self.beta_map is not None:
            self._set_tensor("beta_map", kind="float", shapes="one for each of the result", dims={self.spatial_dims})
            array = self.beta_map.array
            if array.size and not (array.min() >= 0 and array.max() <= 1):
                got = shown_range(array.min(), array.max())
                raise InvalidRequest(f"must have numbers from 0 to 1; got {got}", field="beta_map")
            if self.beta != 0.5:
                raise InvalidRequest("goes without beta_map, which takes its place", field="beta")

    def check_shape(self, shape: tuple[int, ...], out: tuple[int, ...]) -> None:
        """Check that `beta` suits the channels, and `beta_map` the output positions."""
        super().check_shape(shape, out)
        out = out[-self.spatial_dims :]
        if isinstance(self.beta_map, TensorParameter) and self.beta_map.array.shape != out:
            raise InvalidRequest(
                f"must have the spatial shape of the result, {out}; got {self.beta_map.array.shape}", field="beta_map"
            )


class AdaPool1d(_AdaPool):
    """Weighted sum of EDSCWPool and EMPool, over one dimension."""

    spatial_dims = 1


class AdaPool2d(_AdaPool):
    """Weighted sum of EDSCWPool and EMPool, over two dimensions."""

    spatial_dims = 2


class AdaPool3d(_AdaPool):
    """Weighted sum of EDSCWPool and EMPool, over three dimensions."""

    spatial_dims = 3
