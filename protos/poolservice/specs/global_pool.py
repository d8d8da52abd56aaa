"""The global layers: the maximum, the mean or the minimum of each channel."""

from dataclasses import dataclass
from typing import ClassVar

from poolservice.specs.base import GlobalSpec


@dataclass(frozen=True, repr=False)
class _GlobalMaxPool(GlobalSpec):
    operator: ClassVar[str] = "global_max_pool"
    keeps_dtype: ClassVar[bool] = True


@dataclass(frozen=True, repr=False)
class _GlobalAvgPool(GlobalSpec):
    operator: ClassVar[str] = "global_avg_pool"


@dataclass(frozen=True, repr=False)
class _GlobalMinPool(GlobalSpec):
    operator: ClassVar[str] = "global_min_pool"
    keeps_dtype: ClassVar[bool] = True


@dataclass(frozen=True, repr=False)
class GlobalMaxPool1d(_GlobalMaxPool):
    """Maximum of each channel.

    out = max of x over the channel.

    Shape: (C, L) or (N, C, L) to (..., 1).

    Range: each value of the result is a value of the input. The result has the input's dtype.

    NaN: a NaN gives NaN for its channel. An infinity is a value like any other.

    Source: Oquab et al., "Is object localization for free? Weakly-supervised learning with convolutional neural
    networks", 2015.
    """

    spatial_dims = 1


@dataclass(frozen=True, repr=False)
class GlobalMaxPool2d(_GlobalMaxPool):
    """Maximum of each channel.

    out = max of x over the channel.

    Shape: (C, H, W) or (N, C, H, W) to (..., 1, 1).

    Range: each value of the result is a value of the input. The result has the input's dtype.

    NaN: a NaN gives NaN for its channel. An infinity is a value like any other.

    Source: Oquab et al., "Is object localization for free? Weakly-supervised learning with convolutional neural
    networks", 2015.
    """

    spatial_dims = 2


@dataclass(frozen=True, repr=False)
class GlobalMaxPool3d(_GlobalMaxPool):
    """Maximum of each channel.

    out = max of x over the channel.

    Shape: (C, D, H, W) or (N, C, D, H, W) to (..., 1, 1, 1).

    Range: each value of the result is a value of the input. The result has the input's dtype.

    NaN: a NaN gives NaN for its channel. An infinity is a value like any other.

    Source: Oquab et al., "Is object localization for free? Weakly-supervised learning with convolutional neural
    networks", 2015.
    """

    spatial_dims = 3


@dataclass(frozen=True, repr=False)
class GlobalAvgPool1d(_GlobalAvgPool):
    """Mean of each channel (Lin, Chen and Yan, 2013).

    out = mean of x over the channel.

    Shape: (C, L) or (N, C, L) to (..., 1).

    Range: a sum beyond the range of the dtype that it is computed in, float64 for float64 and else float32, becomes
    infinite or NaN. Floating-point input keeps its dtype; integer input gives float32.

    NaN: a NaN gives NaN for its channel. An infinity gives the same infinity, and infinities of both signs give NaN.

    Source: Lin, Chen and Yan, "Network In Network", 2013.
    """

    spatial_dims = 1


@dataclass(frozen=True, repr=False)
class GlobalAvgPool2d(_GlobalAvgPool):
    """Mean of each channel (Lin, Chen and Yan, 2013).

    out = mean of x over the channel.

    Shape: (C, H, W) or (N, C, H, W) to (..., 1, 1).

    Range: a sum beyond the range of the dtype that it is computed in, float64 for float64 and else float32, becomes
    infinite or NaN. Floating-point input keeps its dtype; integer input gives float32.

    NaN: a NaN gives NaN for its channel. An infinity gives the same infinity, and infinities of both signs give NaN.

    Source: Lin, Chen and Yan, "Network In Network", 2013.
    """

    spatial_dims = 2


@dataclass(frozen=True, repr=False)
class GlobalAvgPool3d(_GlobalAvgPool):
    """Mean of each channel (Lin, Chen and Yan, 2013).

    out = mean of x over the channel.

    Shape: (C, D, H, W) or (N, C, D, H, W) to (..., 1, 1, 1).

    Range: a sum beyond the range of the dtype that it is computed in, float64 for float64 and else float32, becomes
    infinite or NaN. Floating-point input keeps its dtype; integer input gives float32.

    NaN: a NaN gives NaN for its channel. An infinity gives the same infinity, and infinities of both signs give NaN.

    Source: Lin, Chen and Yan, "Network In Network", 2013.
    """

    spatial_dims = 3


@dataclass(frozen=True, repr=False)
class GlobalMinPool1d(_GlobalMinPool):
    """Minimum of each channel.

    out = min of x over the channel = -GlobalMaxPool1d(-x).

    Shape: (C, L) or (N, C, L) to (..., 1).

    Range: each value of the result is a value of the input. The result has the input's dtype.

    NaN: a NaN gives NaN for its channel. An infinity is a value like any other.

    Source: erosion by the whole plane; Serra, "Image Analysis and Mathematical Morphology", 1982.
    """

    spatial_dims = 1


@dataclass(frozen=True, repr=False)
class GlobalMinPool2d(_GlobalMinPool):
    """Minimum of each channel.

    out = min of x over the channel = -GlobalMaxPool2d(-x).

    Shape: (C, H, W) or (N, C, H, W) to (..., 1, 1).

    Range: each value of the result is a value of the input. The result has the input's dtype.

    NaN: a NaN gives NaN for its channel. An infinity is a value like any other.

    Source: erosion by the whole plane; Serra, "Image Analysis and Mathematical Morphology", 1982.
    """

    spatial_dims = 2


@dataclass(frozen=True, repr=False)
class GlobalMinPool3d(_GlobalMinPool):
    """Minimum of each channel.

    out = min of x over the channel = -GlobalMaxPool3d(-x).

    Shape: (C, D, H, W) or (N, C, D, H, W) to (..., 1, 1, 1).

    Range: each value of the result is a value of the input. The result has the input's dtype.

    NaN: a NaN gives NaN for its channel. An infinity is a value like any other.

    Source: erosion by the whole plane; Serra, "Image Analysis and Mathematical Morphology", 1982.
    """

    spatial_dims = 3
