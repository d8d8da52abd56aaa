"""StripPool2d, CoordinatePool2d and CornerPool2d: rows and columns, whole or from each position on."""

from dataclasses import dataclass
from typing import ClassVar

from poolservice.specs.base import SampleSpec
from poolservice.specs.result_types import Values

#: The modes of CornerPool2d.
CORNER_MODES = ("top", "bottom", "left", "right", "top_left", "top_right", "bottom_left", "bottom_right")


@dataclass(frozen=True, repr=False)
class StripPool2d(SampleSpec[Values]):
    """Sum of the mean of the row and the mean of the column of each position (Hou et al., 2020).

    out_ij = (mean of x_ik over all k) + (mean of x_kj over all k). This is the module of the paper without its learned
    convolutions: both strips are expanded to the size of the input and added. `CoordinatePool2d` gives the strips
    themselves.

    Shape: (C, H, W) or (N, C, H, W) to the same shape.

    Range: a sum beyond the range of the dtype that it is computed in, float64 for float64 and else float32, becomes
    infinite or NaN. Floating-point input keeps its dtype; integer input gives float32.

    NaN: a NaN gives NaN in its row and its column. An infinity gives the same infinity, and infinities of both signs
    give NaN.

    Source: Hou, Zhang, Cheng and Feng, "Strip Pooling: Rethinking Spatial Pooling for Scene Parsing", 2020.
    """

    operator: ClassVar[str] = "strip_pool"
    spatial_dims = 2

    def sample_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return (C, H, W)."""
        return shape


@dataclass(frozen=True, repr=False)
class CoordinatePool2d(SampleSpec[Values]):
    """Means of the rows, followed by the means of the columns (Hou, Zhou and Feng, 2021).

    out_i = mean of x_ik over all k for i < H, and out_(H + j) = mean of x_kj over all k. This is the input of the first
    convolution of coordinate attention.

    Shape: (C, H, W) or (N, C, H, W) to (C, H + W, 1) or (N, C, H + W, 1).

    Range: a sum beyond the range of the dtype that it is computed in, float64 for float64 and else float32, becomes
    infinite or NaN. Floating-point input keeps its dtype; integer input gives float32.

    NaN: a NaN gives NaN in its row and its column. An infinity gives the same infinity, and infinities of both signs
    give NaN.

    Source: Hou, Zhou and Feng, "Coordinate Attention for Efficient Mobile Network Design", 2021.
    """

    operator: ClassVar[str] = "coordinate_pool"
    spatial_dims = 2

    def sample_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return (C, H + W, 1)."""
        return (shape[0], shape[1] + shape[2], 1)


@dataclass(frozen=True, repr=False)
class CornerPool2d(SampleSpec[Values]):
    """Maximum from each position to an edge of the plane, or the sum of two of them (Law and Deng, 2018).

    With "top", out_ij = max of x_kj over k >= i: a corner at the top of an object looks down. "bottom" takes k <= i,
    "left" takes the maximum of x_ik over k >= j, and "right" over k <= j. "top_left" is the sum of "top" and "left",
    and the other corners are sums in the same way. The learned convolutions of the paper are not included.

    Shape: (C, H, W) or (N, C, H, W) to the same shape.

    Range: a sum beyond the range of the dtype that it is computed in, float64 for float64 and else float32, becomes
    infinite or NaN. Floating-point input keeps its dtype; integer input gives float32.

    NaN: a NaN gives NaN wherever it is in the maximum. An infinity is a value like any other.

    Args:
        mode: "top", "bottom", "left", "right", "top_left", "top_right", "bottom_left" or "bottom_right". Default:
            "top_left".

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: Law and Deng, "CornerNet: Detecting Objects as Paired Keypoints", 2018.
    """

    operator: ClassVar[str] = "corner_pool"
    spatial_dims = 2
    #: Each channel is pooled by itself, as many at a time as fit into the caches.
    takes_samples = False
    mode: str = "top_left"

    def __post_init__(self) -> None:
        self._set_choice("mode", CORNER_MODES)

    def sample_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return (C, H, W)."""
        return shape
