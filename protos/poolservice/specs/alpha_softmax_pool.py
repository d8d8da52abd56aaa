"""AlphaSoftmaxPool1d, 2d and 3d: the mean of each window, weighted by the softmax of alpha times its values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from poolservice.specs.base import Size
from poolservice.specs.result_types import Values
from poolservice.specs.windows import WindowOrPlaneSpec


@dataclass(frozen=True, repr=False)
class _AlphaSoftmaxPool(WindowOrPlaneSpec[Values]):
    """Mean of each window weighted by a softmax with a factor alpha (McFee, Salamon and Bello, 2018).

    out(i) = sum of x * exp(alpha * x) over W(i) / sum of exp(alpha * x) over W(i), where W(i) is the window at output
    position i. alpha = 0 gives the mean, 1 gives SoftPool; a large alpha approaches the maximum, a large negative one
    the minimum.

    Shape: (C, *) or (N, C, *) to (..., *out); see `poolservice.specs.WindowSpec` for the output size. Without a
    `kernel_size`, each dimension of *out is 1.

    Range: nothing overflows. Where exponents are large, the largest one of the window is subtracted from them.
    Floating-point input keeps its dtype; integer input gives float32.

    NaN: a NaN gives NaN in the windows that hold it. So does an infinity. Either can change the rounding of the
    sample's other results.

    Args:
        alpha: the factor, -1e6 to 1e6: one number, or one for each channel. Default: 1.0.
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

    Source: McFee, Salamon and Bello, "Adaptive Pooling Operators for Weakly Labeled Sound Event Detection", 2018.
    """

    operator: ClassVar[str] = "alpha_softmax_pool"
    per_channel: ClassVar[tuple[str, ...]] = ("alpha",)
    alpha: float | Sequence[float] = 1.0
    kernel_size: Size | None = None
    stride: Size | None = None
    padding: Size = 0
    ceil_mode: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set_real("alpha", -1e6, 1e6, per_channel=True)


class AlphaSoftmaxPool1d(_AlphaSoftmaxPool):
    """Mean of each window weighted by the softmax of alpha times its values, over one dimension."""

    spatial_dims = 1


class AlphaSoftmaxPool2d(_AlphaSoftmaxPool):
    """Mean of each window weighted by the softmax of alpha times its values, over two dimensions."""

    spatial_dims = 2


class AlphaSoftmaxPool3d(_AlphaSoftmaxPool):
    """Mean of each window weighted by the softmax of alpha times its values, over three dimensions."""

    spatial_dims = 3
