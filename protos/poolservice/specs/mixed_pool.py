"""MixedPool1d, MixedPool2d and MixedPool3d: a weighted sum of the maximum and the mean of each window."""

from dataclasses import dataclass
from typing import ClassVar

from poolservice.errors import InvalidRequest
from poolservice.specs.base import Size, WindowSpec
from poolservice.specs.result_types import Values
from poolservice.specs.validation import real


@dataclass(frozen=True, repr=False)
class _MixedPool(WindowSpec[Values]):
    operator: ClassVar[str] = "mixed_pool"
    kernel_size: Size
    stride: Size | None = None
    padding: Size = 0
    alpha: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("alpha", real("alpha", self.alpha))
        if not 0 <= self.alpha <= 1:
            raise InvalidRequest(f"must be from 0 (the mean) to 1 (the maximum); got {self.alpha}", field="alpha")


@dataclass(frozen=True, repr=False)
class MixedPool1d(_MixedPool):
    """Weighted sum of the maximum and the mean of each window (Lee, Gallagher and Tu, 2015).

    out(i) = alpha * MaxPool1d(x)(i) + (1 - alpha) * AvgPool1d(x)(i). Floating-point input keeps its dtype; integer
    input gives float32.

    Shape: (C, L) or (N, C, L) to (..., L_out); see `WindowSpec` for the output size.

    Args:
        kernel_size: window size in elements, at least 1: one int for all spatial dimensions, or one per dimension.
            Required.
        stride: distance between windows in elements, at least 1: one int, or one per dimension. Default:
            `kernel_size`.
        padding: elements added on both sides, 0 to half of `kernel_size`: one int, or one per dimension. They count as
            -infinity for the maximum and as 0 for the mean, which includes them. Default: 0.
        alpha: the weight of the maximum, 0 to 1. Default: 0.5.

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: Lee, Gallagher and Tu, "Generalizing Pooling Functions in Convolutional Neural Networks: Mixed, Gated, and
    Tree", 2015.
    """

    spatial_dims = 1


@dataclass(frozen=True, repr=False)
class MixedPool2d(_MixedPool):
    """Weighted sum of the maximum and the mean of each window (Lee, Gallagher and Tu, 2015).

    out(i) = alpha * MaxPool2d(x)(i) + (1 - alpha) * AvgPool2d(x)(i). Floating-point input keeps its dtype; integer
    input gives float32.

    Shape: (C, H, W) or (N, C, H, W) to (..., H_out, W_out); see `WindowSpec` for the output size.

    Args:
        kernel_size: window size in elements, at least 1: one int for all spatial dimensions, or one per dimension.
            Required.
        stride: distance between windows in elements, at least 1: one int, or one per dimension. Default:
            `kernel_size`.
        padding: elements added on both sides, 0 to half of `kernel_size`: one int, or one per dimension. They count as
            -infinity for the maximum and as 0 for the mean, which includes them. Default: 0.
        alpha: the weight of the maximum, 0 to 1. Default: 0.5.

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: Lee, Gallagher and Tu, "Generalizing Pooling Functions in Convolutional Neural Networks: Mixed, Gated, and
    Tree", 2015.
    """

    spatial_dims = 2


@dataclass(frozen=True, repr=False)
class MixedPool3d(_MixedPool):
    """Weighted sum of the maximum and the mean of each window (Lee, Gallagher and Tu, 2015).

    out(i) = alpha * MaxPool3d(x)(i) + (1 - alpha) * AvgPool3d(x)(i). Floating-point input keeps its dtype; integer
    input gives float32.

    Shape: (C, D, H, W) or (N, C, D, H, W) to (..., D_out, H_out, W_out); see `WindowSpec` for the output size.

    Args:
        kernel_size: window size in elements, at least 1: one int for all spatial dimensions, or one per dimension.
            Required.
        stride: distance between windows in elements, at least 1: one int, or one per dimension. Default:
            `kernel_size`.
        padding: elements added on both sides, 0 to half of `kernel_size`: one int, or one per dimension. They count as
            -infinity for the maximum and as 0 for the mean, which includes them. Default: 0.
        alpha: the weight of the maximum, 0 to 1. Default: 0.5.

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: Lee, Gallagher and Tu, "Generalizing Pooling Functions in Convolutional Neural Networks: Mixed, Gated, and
    Tree", 2015.
    """

    spatial_dims = 3
