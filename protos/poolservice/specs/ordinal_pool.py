"""OrdinalPool1d, OrdinalPool2d and OrdinalPool3d: the weighted sum of the sorted values of each window."""

import math
from dataclasses import dataclass
from typing import ClassVar

from poolservice.errors import InvalidRequest
from poolservice.specs.base import Size
from poolservice.specs.result_types import Values
from poolservice.specs.tensor_parameter import TensorLike
from poolservice.specs.windows import Window, WindowOrPlaneSpec


@dataclass(frozen=True, repr=False)
class _OrdinalPool(WindowOrPlaneSpec[Values]):
    """Weighted sum of the sorted values of each window (Kumar, 2018; Deliège et al., 2021).

    out(i) = sum of w[r] * x[r] for r from 1 to K, where x[1] >= x[2] >= ... are the values of the window W(i) at output
    position i. Weights (1, 0, 0, ...) give the maximum, and equal weights of sum 1 the mean. The weights are not
    normalized; the authors train weights that are not negative and of sum 1. A weight of 0 leaves its value out, even
    if it is infinite.

    Shape: (C, *) or (N, C, *) to (..., *out); see `poolservice.specs.WindowSpec` for the output size. Without a
    `kernel_size`, each dimension of *out is 1.

    Range: a sum beyond the range of the dtype that it is computed in, float64 for float64 and else float32, becomes
    infinite or NaN. Rounding errors are relative to the largest term, because terms of both signs may cancel.
    Floating-point input keeps its dtype; integer input gives float32.

    NaN: a NaN gives NaN in the windows that hold it. An infinity gives an infinity, unless its weight is 0, and
    infinite terms of both signs give NaN.

    Args:
        weights: floats of shape (K,), or (C, K) with weights of their own for each channel; K is the number of values
            of a window. The first is the weight of the largest value. A partly filled window of n values uses the first
            n weights. Required.
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

    Source: Kumar, "Ordinal Pooling Networks: For Preserving Information over Shrinking Feature Maps", 2018; Deliège et
    al., "Ordinal Pooling", 2021.
    """

    operator: ClassVar[str] = "ordinal_pool"
    weights: TensorLike
    kernel_size: Size | None = None
    stride: Size | None = None
    padding: Size = 0
    ceil_mode: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set_tensor("weights", kind="float", shapes="(K,) or (C, K)", dims=(1, 2))
        if self.weights.array.ndim == 2:
            self._set("takes_samples", True)
        if self.kernel_size is not None:
            self._check_count(self.window)

    def window_in(self, spatial: tuple[int, ...]) -> Window:
        """Return the window for planes of a spatial shape.

        Raises:
            InvalidRequest: its number of values is not that of the weights.
        """
        window = super().window_in(spatial)
        self._check_count(window)
        return window

    def check_shape(self, shape: tuple[int, ...], out: tuple[int, ...]) -> None:
        """Check that there are weights for each channel, or the same for all."""
        super().check_shape(shape, out)
        channels = shape[-1 - self.spatial_dims]
        given = self.weights.array.shape
        if len(given) == 2 and given[0] != channels:
            raise InvalidRequest(
                f"must have one row for each of the {channels} channels; got shape {given}", field="weights"
            )

    def _check_count(self, window: Window) -> None:
        count = math.prod(window.kernel_size)
        shape = self.weights.array.shape
        if shape[-1] != count:
            raise InvalidRequest(
                f"must have {count} weights, one for each value of a window; got shape {shape}", field="weights"
            )


class OrdinalPool1d(_OrdinalPool):
    """Weighted sum of the sorted values of each window, over one dimension."""

    spatial_dims = 1


class OrdinalPool2d(_OrdinalPool):
    """Weighted sum of the sorted values of each window, over two dimensions."""

    spatial_dims = 2


class OrdinalPool3d(_OrdinalPool):
    """Weighted sum of the sorted values of each window, over three dimensions."""

    spatial_dims = 3
