"""MixedPool1d, MixedPool2d and MixedPool3d: a weighted sum of the maximum and the mean of each window."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

from poolservice.errors import InvalidRequest
from poolservice.specs.base import Size
from poolservice.specs.result_types import Values
from poolservice.specs.validation import is_list, real, reals, shown, shown_number
from poolservice.specs.windows import WindowSpec


@dataclass(frozen=True, repr=False)
class _MixedPool(WindowSpec[Values]):
    """Weighted sum of the maximum and the mean of each window (Lee, Gallagher and Tu, 2016).

    out(i) = alpha * MaxPool(x)(i) + (1 - alpha) * AvgPool(x)(i).

    Shape: (C, *) or (N, C, *) to (..., *out); see `poolservice.specs.WindowSpec` for the output size.

    Range: a sum beyond the range of the dtype that it is computed in, float64 for float64 and else float32, becomes
    infinite or NaN. Floating-point input keeps its dtype; integer input gives float32.

    NaN: a NaN gives NaN in the windows that hold it. An infinity gives the same infinity, or NaN where the formula
    multiplies it by 0. Infinities of both signs give NaN.

    Args:
        kernel_size: window size in elements, at least 1: one int for all spatial dimensions, or one per dimension.
            Required.
        stride: distance between windows in elements, at least 1: one int, or one per dimension. Default:
            `kernel_size`.
        padding: elements added on both sides, 0 to half of `kernel_size`: one int, or one per dimension. They count as
            -infinity for the maximum and as 0 for the mean, which includes them. Default: 0.
        alpha: the weight of the maximum, 0 to 1. Default: 0.5.
        ceil_mode: round the output size up instead of down, so that a last, partly filled window counts. Default:
            False.
        alpha_per_channel: instead of `alpha`, the weight of the maximum for each channel, 0 to 1. Default: `alpha` for
            all channels.

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: Lee, Gallagher and Tu, "Generalizing Pooling Functions in Convolutional Neural Networks: Mixed, Gated, and
    Tree", 2016.
    """

    operator: ClassVar[str] = "mixed_pool"
    per_channel = ("alpha_per_channel",)
    kernel_size: Size
    stride: Size | None = None
    padding: Size = 0
    alpha: float = 0.5
    ceil_mode: bool = False
    alpha_per_channel: Sequence[float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if is_list(self.alpha):
            raise InvalidRequest(
                f"must be one number; alpha_per_channel takes one for each channel; got {shown(self.alpha)}",
                field="alpha",
            )
        self._set("alpha", real("alpha", self.alpha))
        _check_range("alpha", self.alpha)
        if self.alpha_per_channel is None:
            return
        if not is_list(self.alpha_per_channel):
            raise InvalidRequest(
                f"must be a list or tuple of one number for each channel; got {shown(self.alpha_per_channel)}; alpha "
                "takes one number for all channels",
                field="alpha_per_channel",
            )
        values = reals("alpha_per_channel", self.alpha_per_channel)
        for index, value in enumerate(values):
            _check_range("alpha_per_channel", value, place=f" at index {index}")
        self._set("alpha_per_channel", values)
        if self.alpha != 0.5:
            raise InvalidRequest("takes the place of alpha; leave one of them out", field="alpha_per_channel")

    @property
    def weight_of_maximum(self) -> float | tuple[float, ...]:
        """The weight of the maximum: one for all channels, or a tuple of one per channel."""
        return self.alpha if self.alpha_per_channel is None else cast(tuple[float, ...], self.alpha_per_channel)


def _check_range(name: str, alpha: float, place: str = "") -> None:
    if not 0 <= alpha <= 1:
        raise InvalidRequest(
            f"must be from 0 (the mean) to 1 (the maximum); got {shown_number(alpha)}{place}", field=name
        )


class MixedPool1d(_MixedPool):
    """Weighted sum of the maximum and the mean of each window, over one dimension."""

    spatial_dims = 1


class MixedPool2d(_MixedPool):
    """Weighted sum of the maximum and the mean of each window, over two dimensions."""

    spatial_dims = 2


class MixedPool3d(_MixedPool):
    """Weighted sum of the maximum and the mean of each window, over three dimensions."""

    spatial_dims = 3
