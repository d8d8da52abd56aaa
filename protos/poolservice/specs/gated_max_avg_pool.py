"""GatedMaxAvgPool1d, 2d and 3d: maximum and mean of each window, weighted by a gate that sees the window."""

from dataclasses import dataclass
from typing import ClassVar, cast

from poolservice.errors import InvalidRequest
from poolservice.specs.base import Size
from poolservice.specs.result_types import Values
from poolservice.specs.tensor_parameter import TensorLike, TensorParameter
from poolservice.specs.windows import WindowSpec


@dataclass(frozen=True, repr=False)
class _GatedMaxAvgPool(WindowSpec[Values]):
    """Maximum and mean of each window, weighted by a gate that sees the window (Lee, Gallagher and Tu, 2016).

    out(i) = g * max of x over W(i) + (1 - g) * mean of x over W(i), with the gate g = sigmoid(sum of weight * x over
    W(i)), where W(i) is the window at output position i. As in `MixedPool2d`, the mean includes the padded zeros and
    the maximum does not.

    Shape: (C, *) or (N, C, *) to (..., *out); see `poolservice.specs.WindowSpec` for the output size.

    Range: a sum beyond the range of the dtype that it is computed in, float64 for float64 and else float32, becomes
    infinite or NaN. A gate is as precise as its sum: if large terms of it cancel, the rounding errors of about 1e-7
    times the sum of their magnitudes change the gate. Floating-point input keeps its dtype; integer input gives
    float32.

    NaN: a NaN gives NaN in the windows that hold it. An infinity gives an infinity or NaN, as the formula does.

    Args:
        kernel_size: window size in elements, at least 1: one int for all spatial dimensions, or one per dimension.
            Required.
        weight: the mask of the gate, of shape (*kernel_size), or (C, *kernel_size) with one for each channel.
            Finite, at most 8 MiB. Required.
        stride: distance between windows in elements, at least 1: one int, or one per dimension. Default:
            `kernel_size`.
        padding: elements added on both sides, 0 to half of `kernel_size`: one int, or one per dimension. They count as
            -infinity for the maximum and as 0 for the gate and the mean, which includes them. Default: 0.
        ceil_mode: round the output size up instead of down, so that a last, partly filled window counts. Default:
            False.

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: Lee, Gallagher and Tu, "Generalizing Pooling Functions in Convolutional Neural Networks: Mixed, Gated, and
    Tree", 2016.
    """

    operator: ClassVar[str] = "gated_max_avg_pool"
    #: A mask may have one window for each channel.
    takes_samples = True
    kernel_size: Size
    weight: TensorLike
    stride: Size | None = None
    padding: Size = 0
    ceil_mode: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        dims = self.spatial_dims
        kernel_size = self.window.kernel_size
        shapes = f"{kernel_size} or (C, {', '.join(map(str, kernel_size))})"
        self._set_tensor("weight", kind="float", shapes=shapes, dims=(dims, dims + 1))
        shape = self._weight.array.shape
        if shape[-dims:] != kernel_size:
            raise InvalidRequest(
                f"must have the shape of the window, {kernel_size}, with or without a dimension of channels before; "
                f"got {shape}",
                field="weight",
            )

    def check_shape(self, shape: tuple[int, ...], out: tuple[int, ...]) -> None:
        """Check that there is a mask for each channel, or one for all."""
        super().check_shape(shape, out)
        channels = shape[-1 - self.spatial_dims]
        given = self._weight.array.shape
        if len(given) > self.spatial_dims and given[0] != channels:
            raise InvalidRequest(
                f"has masks for {given[0]} channels, but the input has {channels}; give one for each, or one for all",
                field="weight",
            )

    @property
    def _weight(self) -> TensorParameter:
        return cast(TensorParameter, self.weight)


class GatedMaxAvgPool1d(_GatedMaxAvgPool):
    """Maximum and mean of each window, weighted by a gate that sees the window, over one dimension."""

    spatial_dims = 1


class GatedMaxAvgPool2d(_GatedMaxAvgPool):
    """Maximum and mean of each window, weighted by a gate that sees the window, over two dimensions."""

    spatial_dims = 2


class GatedMaxAvgPool3d(_GatedMaxAvgPool):
    """Maximum and mean of each window, weighted by a gate that sees the window, over three dimensions."""

    spatial_dims = 3
