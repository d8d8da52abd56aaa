"""AdaptiveAvgPool1d, AdaptiveAvgPool2d and AdaptiveAvgPool3d: the mean of each of `output_size` windows."""

from dataclasses import dataclass
from typing import ClassVar

from poolservice.specs.base import AdaptiveSpec
from poolservice.specs.result_types import Values


@dataclass(frozen=True, repr=False)
class _AdaptiveAvgPool(AdaptiveSpec[Values]):
    operator: ClassVar[str] = "adaptive_avg_pool"


@dataclass(frozen=True, repr=False)
class AdaptiveAvgPool1d(_AdaptiveAvgPool):
    """Mean of each of output_size windows that tile the input, as torch.nn.AdaptiveAvgPool1d.

    out(i) = mean of x over W(i), where W(i) is the window at output position i; see `poolservice.specs.AdaptiveSpec`.

    Shape: (C, L) or (N, C, L) to (..., output_size).

    Range: a sum beyond the range of the dtype that it is computed in, float64 for float64 and else float32, becomes
    infinite or NaN. Floating-point input keeps its dtype; integer input gives float32.

    NaN: a NaN gives NaN in the tiles that hold it. An infinity gives the same infinity, and infinities of both signs
    give NaN.

    Args:
        output_size: output size in elements, 0 or more: one int for all spatial dimensions, or one per dimension. None
            keeps the input's size. Required.

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: torch.nn.AdaptiveAvgPool1d; He et al., "Spatial Pyramid Pooling in Deep Convolutional Networks for Visual
    Recognition", 2014.
    """

    spatial_dims = 1


@dataclass(frozen=True, repr=False)
class AdaptiveAvgPool2d(_AdaptiveAvgPool):
    """Mean of each of output_size windows that tile the input, as torch.nn.AdaptiveAvgPool2d.

    out(i) = mean of x over W(i), where W(i) is the window at output position i; see `poolservice.specs.AdaptiveSpec`.

    Shape: (C, H, W) or (N, C, H, W) to (..., *output_size).

    Range: a sum beyond the range of the dtype that it is computed in, float64 for float64 and else float32, becomes
    infinite or NaN. Floating-point input keeps its dtype; integer input gives float32.

    NaN: a NaN gives NaN in the tiles that hold it. An infinity gives the same infinity, and infinities of both signs
    give NaN.

    Args:
        output_size: output size in elements, 0 or more: one int for all spatial dimensions, or one per dimension. None
            keeps the input's size. Required.

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: torch.nn.AdaptiveAvgPool2d; He et al., "Spatial Pyramid Pooling in Deep Convolutional Networks for Visual
    Recognition", 2014.
    """

    spatial_dims = 2


@dataclass(frozen=True, repr=False)
class AdaptiveAvgPool3d(_AdaptiveAvgPool):
    """Mean of each of output_size windows that tile the input, as torch.nn.AdaptiveAvgPool3d.

    out(i) = mean of x over W(i), where W(i) is the window at output position i; see `poolservice.specs.AdaptiveSpec`.

    Shape: (C, D, H, W) or (N, C, D, H, W) to (..., *output_size).

    Range: a sum beyond the range of the dtype that it is computed in, float64 for float64 and else float32, becomes
    infinite or NaN. Floating-point input keeps its dtype; integer input gives float32.

    NaN: a NaN gives NaN in the tiles that hold it. An infinity gives the same infinity, and infinities of both signs
    give NaN.

    Args:
        output_size: output size in elements, 0 or more: one int for all spatial dimensions, or one per dimension. None
            keeps the input's size. Required.

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: torch.nn.AdaptiveAvgPool3d; He et al., "Spatial Pyramid Pooling in Deep Convolutional Networks for Visual
    Recognition", 2014.
    """

    spatial_dims = 3
