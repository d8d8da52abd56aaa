"""LSEPool and LsePlus in one, two and three dimensions: the logarithm of the mean of exponentials of each window."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from poolservice.specs.base import Size
from poolservice.specs.result_types import Values
from poolservice.specs.windows import WindowOrPlaneSpec

_LEAST, _LARGEST = 1e-3, 1e6


@dataclass(frozen=True, repr=False)
class _LSEPool(WindowOrPlaneSpec[Values]):
    """Logarithm of the mean of exponentials of each window (Pinheiro and Collobert, 2015).

    out(i) = log(mean of exp(r * x) over W(i)) / r, where W(i) is the window at output position i. A small r approaches
    the mean, a large r the maximum. LSE-LBA (Yao et al., 2018) is this operator with r = r0 + exp(beta).

    Shape: (C, *) or (N, C, *) to (..., *out); see `poolservice.specs.WindowSpec` for the output size. Without a
    `kernel_size`, each dimension of *out is 1.

    Range: nothing overflows. Where exponents are large, the largest one of the window is subtracted from them.
    Floating-point input keeps its dtype; integer input gives float32.

    NaN: a NaN gives NaN in the windows that hold it. inf gives inf, and -inf counts like any other low value. Either
    can change the rounding of the sample's other results.

    Args:
        r: the sharpness, 0.001 to 1e6: one number, or one for each channel. Default: 1.0.
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

    Source: Pinheiro and Collobert, "From Image-level to Pixel-level Labeling with Convolutional Networks", 2015.
    """

    operator: ClassVar[str] = "lse_pool"
    per_channel: ClassVar[tuple[str, ...]] = ("r",)
    r: float | Sequence[float] = 1.0
    kernel_size: Size | None = None
    stride: Size | None = None
    padding: Size = 0
    ceil_mode: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set_real("r", _LEAST, _LARGEST, per_channel=True)


class LSEPool1d(_LSEPool):
    """Logarithm of the mean of exponentials of each window, over one dimension."""

    spatial_dims = 1


class LSEPool2d(_LSEPool):
    """Logarithm of the mean of exponentials of each window, over two dimensions."""

    spatial_dims = 2


class LSEPool3d(_LSEPool):
    """Logarithm of the mean of exponentials of each window, over three dimensions."""

    spatial_dims = 3


@dataclass(frozen=True, repr=False)
class _LsePlus(WindowOrPlaneSpec[Values]):
    """Logarithm of the mean of exponentials of each window, as timm.layers.LsePlus2d.

    out(i) = m + log(mean of exp(r * (x - m)) over W(i)) / r, where W(i) is the window at output position i and m is its
    maximum. This is the layer of that name in timm; there, the window is always the whole plane. It has the values of
    LSEPool, whose formula without m overflows if it is computed as it is written, and another default of r.

    Shape: (C, *) or (N, C, *) to (..., *out); see `poolservice.specs.WindowSpec` for the output size. Without a
    `kernel_size`, each dimension of *out is 1.

    Range: nothing overflows. Where exponents are large, the largest one of the window is subtracted from them.
    Floating-point input keeps its dtype; integer input gives float32.

    NaN: a NaN gives NaN in the windows that hold it. inf gives inf, and -inf counts like any other low value. Either
    can change the rounding of the sample's other results.

    Args:
        r: the sharpness, 0.001 to 1e6: one number, or one for each channel. Default: 10.0.
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

    Source: timm.layers.LsePlus1d and LsePlus2d.
    """

    operator: ClassVar[str] = "lse_plus"
    per_channel: ClassVar[tuple[str, ...]] = ("r",)
    r: float | Sequence[float] = 10.0
    kernel_size: Size | None = None
    stride: Size | None = None
    padding: Size = 0
    ceil_mode: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set_real("r", _LEAST, _LARGEST, per_channel=True)


class LsePlus1d(_LsePlus):
    """Logarithm of the mean of exponentials of each window, as in timm, over one dimension."""

    spatial_dims = 1


class LsePlus2d(_LsePlus):
    """Logarithm of the mean of exponentials of each window, as in timm, over two dimensions."""

    spatial_dims = 2


class LsePlus3d(_LsePlus):
    """Logarithm of the mean of exponentials of each window, as in timm, over three dimensions."""

    spatial_dims = 3
