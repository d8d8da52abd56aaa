"""The layers: torch.nn's pooling layers by their own names and parameters, and those that torch lacks.

Each is a description, not the computation: what a service is asked to do. Shapes are torch's: (C, *) or (N, C, *)
with one spatial dimension for a name that ends in 1d, two for 2d, three for 3d.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from poolservice.errors import InvalidRequest
from poolservice.specs.base import AdaptiveSpec, GlobalSpec, Size, WindowSpec, integer, real


@dataclass(frozen=True, repr=False)
class _MaxPool(WindowSpec):
    operator: ClassVar[str] = "max_pool"
    kernel_size: Size
    stride: Size | None = None
    padding: Size = 0
    dilation: Size = 1
    return_indices: bool = False
    ceil_mode: bool = False


@dataclass(frozen=True, repr=False)
class _MinPool(WindowSpec):
    operator: ClassVar[str] = "min_pool"
    kernel_size: Size
    stride: Size | None = None
    padding: Size = 0
    dilation: Size = 1
    return_indices: bool = False
    ceil_mode: bool = False


@dataclass(frozen=True, repr=False)
class _AvgPool(WindowSpec):
    operator: ClassVar[str] = "avg_pool"
    kernel_size: Size
    stride: Size | None = None
    padding: Size = 0
    ceil_mode: bool = False
    count_include_pad: bool = True


@dataclass(frozen=True, repr=False)
class _DivisorAvgPool(_AvgPool):
    divisor_override: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.divisor_override is not None:
            self._set("divisor_override", integer("divisor_override", self.divisor_override, optional=True))
            if self.divisor_override == 0 or not -(2**63) <= self.divisor_override < 2**63:
                raise InvalidRequest(
                    f"must be an int of 64 bits other than 0; got {self.divisor_override}", field="divisor_override"
                )


@dataclass(frozen=True, repr=False)
class _LPPool(WindowSpec):
    operator: ClassVar[str] = "lp_pool"
    norm_type: float
    kernel_size: Size
    stride: Size | None = None
    ceil_mode: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("norm_type", real("norm_type", self.norm_type))
        if self.norm_type == 0 or not math.isfinite(self.norm_type):
            raise InvalidRequest(
                f"must be finite and other than 0 (its limit at infinity is MaxPool); got {self.norm_type}",
                field="norm_type",
            )


@dataclass(frozen=True, repr=False)
class _MixedPool(WindowSpec):
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
class _AdaptiveMaxPool(AdaptiveSpec):
    operator: ClassVar[str] = "adaptive_max_pool"
    return_indices: bool = False


@dataclass(frozen=True, repr=False)
class _AdaptiveAvgPool(AdaptiveSpec):
    operator: ClassVar[str] = "adaptive_avg_pool"


@dataclass(frozen=True, repr=False)
class _GlobalMaxPool(GlobalSpec):
    operator: ClassVar[str] = "global_max_pool"


@dataclass(frozen=True, repr=False)
class _GlobalAvgPool(GlobalSpec):
    operator: ClassVar[str] = "global_avg_pool"


@dataclass(frozen=True, repr=False)
class _GlobalMinPool(GlobalSpec):
    operator: ClassVar[str] = "global_min_pool"


class MaxPool1d(_MaxPool):
    """The maximum of each window, as torch.nn.MaxPool1d; padding counts as -infinity."""

    spatial_dims = 1


class MaxPool2d(_MaxPool):
    """The maximum of each window, as torch.nn.MaxPool2d; padding counts as -infinity."""

    spatial_dims = 2


class MaxPool3d(_MaxPool):
    """The maximum of each window, as torch.nn.MaxPool3d; padding counts as -infinity."""

    spatial_dims = 3


class MinPool1d(_MinPool):
    """The minimum of each window: -MaxPool1d(-x); padding counts as +infinity."""

    spatial_dims = 1


class MinPool2d(_MinPool):
    """The minimum of each window: -MaxPool2d(-x); padding counts as +infinity."""

    spatial_dims = 2


class MinPool3d(_MinPool):
    """The minimum of each window: -MaxPool3d(-x); padding counts as +infinity."""

    spatial_dims = 3


class AvgPool1d(_AvgPool):
    """The mean of each window, as torch.nn.AvgPool1d; integers give float32."""

    spatial_dims = 1


class AvgPool2d(_DivisorAvgPool):
    """The mean of each window, as torch.nn.AvgPool2d; integers give float32."""

    spatial_dims = 2


class AvgPool3d(_DivisorAvgPool):
    """The mean of each window, as torch.nn.AvgPool3d; integers give float32."""

    spatial_dims = 3


class LPPool1d(_LPPool):
    """(sum of x^p)^(1/p) of each window, as torch.nn.LPPool1d; integers give float32."""

    spatial_dims = 1


class LPPool2d(_LPPool):
    """(sum of x^p)^(1/p) of each window, as torch.nn.LPPool2d; integers give float32."""

    spatial_dims = 2


class LPPool3d(_LPPool):
    """(sum of x^p)^(1/p) of each window, as torch.nn.LPPool3d; integers give float32."""

    spatial_dims = 3


class MixedPool1d(_MixedPool):
    """alpha * MaxPool1d(x) + (1 - alpha) * AvgPool1d(x) (Lee, Gallagher and Tu, 2015)."""

    spatial_dims = 1


class MixedPool2d(_MixedPool):
    """alpha * MaxPool2d(x) + (1 - alpha) * AvgPool2d(x) (Lee, Gallagher and Tu, 2015)."""

    spatial_dims = 2


class MixedPool3d(_MixedPool):
    """alpha * MaxPool3d(x) + (1 - alpha) * AvgPool3d(x) (Lee, Gallagher and Tu, 2015)."""

    spatial_dims = 3


class AdaptiveMaxPool1d(_AdaptiveMaxPool):
    """The maximum of windows that tile the input, as torch.nn.AdaptiveMaxPool1d."""

    spatial_dims = 1


class AdaptiveMaxPool2d(_AdaptiveMaxPool):
    """The maximum of windows that tile the input, as torch.nn.AdaptiveMaxPool2d."""

    spatial_dims = 2


class AdaptiveMaxPool3d(_AdaptiveMaxPool):
    """The maximum of windows that tile the input, as torch.nn.AdaptiveMaxPool3d."""

    spatial_dims = 3


class AdaptiveAvgPool1d(_AdaptiveAvgPool):
    """The mean of windows that tile the input, as torch.nn.AdaptiveAvgPool1d."""

    spatial_dims = 1


class AdaptiveAvgPool2d(_AdaptiveAvgPool):
    """The mean of windows that tile the input, as torch.nn.AdaptiveAvgPool2d."""

    spatial_dims = 2


class AdaptiveAvgPool3d(_AdaptiveAvgPool):
    """The mean of windows that tile the input, as torch.nn.AdaptiveAvgPool3d."""

    spatial_dims = 3


class GlobalMaxPool1d(_GlobalMaxPool):
    """The maximum of each channel."""

    spatial_dims = 1


class GlobalMaxPool2d(_GlobalMaxPool):
    """The maximum of each channel."""

    spatial_dims = 2


class GlobalMaxPool3d(_GlobalMaxPool):
    """The maximum of each channel."""

    spatial_dims = 3


class GlobalAvgPool1d(_GlobalAvgPool):
    """The mean of each channel (Lin, Chen and Yan, 2013); integers give float32."""

    spatial_dims = 1


class GlobalAvgPool2d(_GlobalAvgPool):
    """The mean of each channel (Lin, Chen and Yan, 2013); integers give float32."""

    spatial_dims = 2


class GlobalAvgPool3d(_GlobalAvgPool):
    """The mean of each channel (Lin, Chen and Yan, 2013); integers give float32."""

    spatial_dims = 3


class GlobalMinPool1d(_GlobalMinPool):
    """The minimum of each channel."""

    spatial_dims = 1


class GlobalMinPool2d(_GlobalMinPool):
    """The minimum of each channel."""

    spatial_dims = 2


class GlobalMinPool3d(_GlobalMinPool):
    """The minimum of each channel."""

    spatial_dims = 3
