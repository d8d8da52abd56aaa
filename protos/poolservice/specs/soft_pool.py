"""SoftPool1d, SoftPool2d and SoftPool3d: the mean of each window, weighted by the softmax of its values."""

from dataclasses import dataclass
from typing import ClassVar

from poolservice.specs.base import Size
from poolservice.specs.result_types import Values
from poolservice.specs.windows import WindowOrPlaneSpec


@dataclass(frozen=True, repr=False)
class _SoftPool(WindowOrPlaneSpec[Values]):
    """Mean of each window weighted by the softmax of its values (Stergiou, Poppe and Kalliatakis, 2021).

    out(i) = sum of x * exp(x) over W(i) / sum of exp(x) over W(i), where W(i) is the window at output position i.

    Shape: (C, *) or (N, C, *) to (..., *out); see `poolservice.specs.WindowSpec` for the output size. Without a
    `kernel_size`, each dimension of *out is 1.

    Range: nothing overflows. Where exponents are large, the largest one of the window is subtracted from them.
    Floating-point input keeps its dtype; integer input gives float32.

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

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: Stergiou, Poppe and Kalliatakis, "Refining activation downsampling with SoftPool", 2021.
    """

    operator: ClassVar[str] = "soft_pool"
    kernel_size: Size | None = None
    stride: Size | None = None
    padding: Size = 0
    ceil_mode: bool = False


class SoftPool1d(_SoftPool):
    """Mean of each window weighted by the softmax of its values, over one dimension."""

    spatial_dims = 1


class SoftPool2d(_SoftPool):
    """Mean of each window weighted by the softmax of its values, over two dimensions."""

    spatial_dims = 2


class SoftPool3d(_SoftPool):
    """Mean of each window weighted by the softmax of its values, over three dimensions."""

    spatial_dims = 3
