"""The layers whose windows follow from the input's size: adaptive ones tile it, global ones take all of it.

Each is a description, not the computation: what a service is asked to do. W(i) is the window at output position i.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, overload

from poolservice.specs.base import AdaptiveSpec, GlobalSpec, OutputSize
from poolservice.specs.results import R_co, Result, Values, ValuesAndIndices


@dataclass(frozen=True, repr=False)
class _AdaptiveMaxPool(AdaptiveSpec[R_co]):
    """Adaptive max pooling: out(i) = max of x over W(i). The result has the input's type; NaN wins.

    Args:
        return_indices: whether to return, for each maximum, its flat position in the input's spatial plane, counted
            in row-major order. int64, the result's shape. Default: False.

    Source: torch.nn.AdaptiveMaxPool; He et al., "Spatial Pyramid Pooling in Deep Convolutional Networks for Visual
    Recognition", 2014.
    """

    operator: ClassVar[str] = "adaptive_max_pool"
    return_indices: bool = False


@dataclass(frozen=True, repr=False)
class _AdaptiveAvgPool(AdaptiveSpec[Values]):
    """Adaptive average pooling: out(i) = mean of x over W(i). Floats keep their type, integers give float32.

    Source: torch.nn.AdaptiveAvgPool; He et al., "Spatial Pyramid Pooling in Deep Convolutional Networks for Visual
    Recognition", 2014.
    """

    operator: ClassVar[str] = "adaptive_avg_pool"


@dataclass(frozen=True, repr=False)
class _GlobalMaxPool(GlobalSpec):
    """Global max pooling: out = max of x over the channel. The result has the input's type; NaN wins.

    Source: Oquab et al., "Is object localization for free? Weakly-supervised learning with convolutional neural
    networks", 2015.
    """

    operator: ClassVar[str] = "global_max_pool"


@dataclass(frozen=True, repr=False)
class _GlobalAvgPool(GlobalSpec):
    """Global average pooling: out = mean of x over the channel. Floats keep their type, integers give float32.

    Source: Lin, Chen and Yan, "Network In Network", 2013.
    """

    operator: ClassVar[str] = "global_avg_pool"


@dataclass(frozen=True, repr=False)
class _GlobalMinPool(GlobalSpec):
    """Global min pooling, -GlobalMaxPool(-x): out = min of x over the channel.

    The result has the input's type; NaN wins.
    """

    operator: ClassVar[str] = "global_min_pool"


@dataclass(frozen=True, repr=False)
class AdaptiveMaxPool1d(_AdaptiveMaxPool[R_co]):
    """The maximum of windows that tile the input, as torch.nn.AdaptiveMaxPool1d.

    out(i) = max of x over W(i), of the input's type.

    Shape: (C, L) or (N, C, L) to (..., output_size).
    """

    spatial_dims = 1

    if TYPE_CHECKING:

        @overload
        def __init__(
            self: "AdaptiveMaxPool1d[Values]", output_size: OutputSize, return_indices: Literal[False] = False
        ) -> None: ...
        @overload
        def __init__(
            self: "AdaptiveMaxPool1d[ValuesAndIndices]", output_size: OutputSize, return_indices: Literal[True] = True
        ) -> None: ...
        @overload
        def __init__(
            self: "AdaptiveMaxPool1d[Result]", output_size: OutputSize, return_indices: bool = False
        ) -> None: ...
        def __init__(self, *sizes: Any, **named: Any) -> None: ...


@dataclass(frozen=True, repr=False)
class AdaptiveMaxPool2d(_AdaptiveMaxPool[R_co]):
    """The maximum of windows that tile the input, as torch.nn.AdaptiveMaxPool2d.

    out(i) = max of x over W(i), of the input's type.

    Shape: (C, H, W) or (N, C, H, W) to (..., *output_size).
    """

    spatial_dims = 2

    if TYPE_CHECKING:

        @overload
        def __init__(
            self: "AdaptiveMaxPool2d[Values]", output_size: OutputSize, return_indices: Literal[False] = False
        ) -> None: ...
        @overload
        def __init__(
            self: "AdaptiveMaxPool2d[ValuesAndIndices]", output_size: OutputSize, return_indices: Literal[True] = True
        ) -> None: ...
        @overload
        def __init__(
            self: "AdaptiveMaxPool2d[Result]", output_size: OutputSize, return_indices: bool = False
        ) -> None: ...
        def __init__(self, *sizes: Any, **named: Any) -> None: ...


@dataclass(frozen=True, repr=False)
class AdaptiveMaxPool3d(_AdaptiveMaxPool[R_co]):
    """The maximum of windows that tile the input, as torch.nn.AdaptiveMaxPool3d.

    out(i) = max of x over W(i), of the input's type.

    Shape: (C, D, H, W) or (N, C, D, H, W) to (..., *output_size).
    """

    spatial_dims = 3

    if TYPE_CHECKING:

        @overload
        def __init__(
            self: "AdaptiveMaxPool3d[Values]", output_size: OutputSize, return_indices: Literal[False] = False
        ) -> None: ...
        @overload
        def __init__(
            self: "AdaptiveMaxPool3d[ValuesAndIndices]", output_size: OutputSize, return_indices: Literal[True] = True
        ) -> None: ...
        @overload
        def __init__(
            self: "AdaptiveMaxPool3d[Result]", output_size: OutputSize, return_indices: bool = False
        ) -> None: ...
        def __init__(self, *sizes: Any, **named: Any) -> None: ...


@dataclass(frozen=True, repr=False)
class AdaptiveAvgPool1d(_AdaptiveAvgPool):
    """The mean of windows that tile the input, as torch.nn.AdaptiveAvgPool1d.

    out(i) = mean of x over W(i); integers give float32.

    Shape: (C, L) or (N, C, L) to (..., output_size).
    """

    spatial_dims = 1


@dataclass(frozen=True, repr=False)
class AdaptiveAvgPool2d(_AdaptiveAvgPool):
    """The mean of windows that tile the input, as torch.nn.AdaptiveAvgPool2d.

    out(i) = mean of x over W(i); integers give float32.

    Shape: (C, H, W) or (N, C, H, W) to (..., *output_size).
    """

    spatial_dims = 2


@dataclass(frozen=True, repr=False)
class AdaptiveAvgPool3d(_AdaptiveAvgPool):
    """The mean of windows that tile the input, as torch.nn.AdaptiveAvgPool3d.

    out(i) = mean of x over W(i); integers give float32.

    Shape: (C, D, H, W) or (N, C, D, H, W) to (..., *output_size).
    """

    spatial_dims = 3


@dataclass(frozen=True, repr=False)
class GlobalMaxPool1d(_GlobalMaxPool):
    """The maximum of each channel.

    out = max of x over the channel, of the input's type.

    Shape: (C, L) or (N, C, L) to (..., 1).
    """

    spatial_dims = 1


@dataclass(frozen=True, repr=False)
class GlobalMaxPool2d(_GlobalMaxPool):
    """The maximum of each channel.

    out = max of x over the channel, of the input's type.

    Shape: (C, H, W) or (N, C, H, W) to (..., 1, 1).
    """

    spatial_dims = 2


@dataclass(frozen=True, repr=False)
class GlobalMaxPool3d(_GlobalMaxPool):
    """The maximum of each channel.

    out = max of x over the channel, of the input's type.

    Shape: (C, D, H, W) or (N, C, D, H, W) to (..., 1, 1, 1).
    """

    spatial_dims = 3


@dataclass(frozen=True, repr=False)
class GlobalAvgPool1d(_GlobalAvgPool):
    """The mean of each channel (Lin, Chen and Yan, 2013).

    out = mean of x over the channel; integers give float32.

    Shape: (C, L) or (N, C, L) to (..., 1).
    """

    spatial_dims = 1


@dataclass(frozen=True, repr=False)
class GlobalAvgPool2d(_GlobalAvgPool):
    """The mean of each channel (Lin, Chen and Yan, 2013).

    out = mean of x over the channel; integers give float32.

    Shape: (C, H, W) or (N, C, H, W) to (..., 1, 1).
    """

    spatial_dims = 2


@dataclass(frozen=True, repr=False)
class GlobalAvgPool3d(_GlobalAvgPool):
    """The mean of each channel (Lin, Chen and Yan, 2013).

    out = mean of x over the channel; integers give float32.

    Shape: (C, D, H, W) or (N, C, D, H, W) to (..., 1, 1, 1).
    """

    spatial_dims = 3


@dataclass(frozen=True, repr=False)
class GlobalMinPool1d(_GlobalMinPool):
    """The minimum of each channel.

    out = min of x over the channel, of the input's type.

    Shape: (C, L) or (N, C, L) to (..., 1).
    """

    spatial_dims = 1


@dataclass(frozen=True, repr=False)
class GlobalMinPool2d(_GlobalMinPool):
    """The minimum of each channel.

    out = min of x over the channel, of the input's type.

    Shape: (C, H, W) or (N, C, H, W) to (..., 1, 1).
    """

    spatial_dims = 2


@dataclass(frozen=True, repr=False)
class GlobalMinPool3d(_GlobalMinPool):
    """The minimum of each channel.

    out = min of x over the channel, of the input's type.

    Shape: (C, D, H, W) or (N, C, D, H, W) to (..., 1, 1, 1).
    """

    spatial_dims = 3
