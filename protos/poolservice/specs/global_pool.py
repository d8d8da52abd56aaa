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

    out = max of x over the channel. A NaN in the channel gives NaN. The result has the input's dtype.

    Shape: (C, L) or (N, C, L) to (..., 1).

    Source: Oquab et al., "Is object localization for free? Weakly-supervised learning with convolutional neural
    networks", 2015.
    """

    spatial_dims = 1


@dataclass(frozen=True, repr=False)
class GlobalMaxPool2d(_GlobalMaxPool):
    """Maximum of each channel.

    out = max of x over the channel. A NaN in the channel gives NaN. The result has the input's dtype.

    Shape: (C, H, W) or (N, C, H, W) to (..., 1, 1).

    Source: Oquab et al., "Is object localization for free? Weakly-supervised learning with convolutional neural
    networks", 2015.
    """

    spatial_dims = 2


@dataclass(frozen=True, repr=False)
class GlobalMaxPool3d(_GlobalMaxPool):
    """Maximum of each channel.

    out = max of x over the channel. A NaN in the channel gives NaN. The result has the input's dtype.

    Shape: (C, D, H, W) or (N, C, D, H, W) to (..., 1, 1, 1).

    Source: Oquab et al., "Is object localization for free? Weakly-supervised learning with convolutional neural
    networks", 2015.
    """

    spatial_dims = 3


@dataclass(frozen=True, repr=False)
class GlobalAvgPool1d(_GlobalAvgPool):
    """Mean of each channel (Lin, Chen and Yan, 2013).

    out = mean of x over the channel. Floating-point input keeps its dtype; integer input gives float32.

    Shape: (C, L) or (N, C, L) to (..., 1).

    Source: Lin, Chen and Yan, "Network In Network", 2013.
    """

    spatial_dims = 1


@dataclass(frozen=True, repr=False)
class GlobalAvgPool2d(_GlobalAvgPool):
    """Mean of each channel (Lin, Chen and Yan, 2013).

    out = mean of x over the channel. Floating-point input keeps its dtype; integer input gives float32.

    Shape: (C, H, W) or (N, C, H, W) to (..., 1, 1).

    Source: Lin, Chen and Yan, "Network In Network", 2013.
    """

    spatial_dims = 2


@dataclass(frozen=True, repr=False)
class GlobalAvgPool3d(_GlobalAvgPool):
    """Mean of each channel (Lin, Chen and Yan, 2013).

    out = mean of x over the channel. Floating-point input keeps its dtype; integer input gives float32.

    Shape: (C, D, H, W) or (N, C, D, H, W) to (..., 1, 1, 1).

    Source: Lin, Chen and Yan, "Network In Network", 2013.
    """

    spatial_dims = 3


@dataclass(frozen=True, repr=False)
class GlobalMinPool1d(_GlobalMinPool):
    """Minimum of each channel.

    out = min of x over the channel = -GlobalMaxPool1d(-x). A NaN in the channel gives NaN. The result has the input's
    dtype.

    Shape: (C, L) or (N, C, L) to (..., 1).
    """

    spatial_dims = 1


@dataclass(frozen=True, repr=False)
class GlobalMinPool2d(_GlobalMinPool):
    """Minimum of each channel.

    out = min of x over the channel = -GlobalMaxPool2d(-x). A NaN in the channel gives NaN. The result has the input's
    dtype.

    Shape: (C, H, W) or (N, C, H, W) to (..., 1, 1).
    """

    spatial_dims = 2


@dataclass(frozen=True, repr=False)
class GlobalMinPool3d(_GlobalMinPool):
    """Minimum of each channel.

    out = min of x over the channel = -GlobalMaxPool3d(-x). A NaN in the channel gives NaN. The result has the input's
    dtype.

    Shape: (C, D, H, W) or (N, C, D, H, W) to (..., 1, 1, 1).
    """

    spatial_dims = 3
