"""AdaptiveMaxPool1d, AdaptiveMaxPool2d and AdaptiveMaxPool3d: the maximum of each of `output_size` windows.

Each layer repeats the overloads of its constructor, because mypy honors the annotation of `self` only in the class
that declares it.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, overload

from poolservice.specs.base import AdaptiveSpec, OutputSize
from poolservice.specs.result_types import R_co, ResultType, Values, ValuesAndIndices


@dataclass(frozen=True, repr=False)
class _AdaptiveMaxPool(AdaptiveSpec[R_co]):
    operator: ClassVar[str] = "adaptive_max_pool"
    keeps_dtype: ClassVar[bool] = True
    return_indices: bool = False


@dataclass(frozen=True, repr=False)
class AdaptiveMaxPool1d(_AdaptiveMaxPool[R_co]):
    """Maximum of each of output_size windows that tile the input, as torch.nn.AdaptiveMaxPool1d.

    out(i) = max of x over W(i), where W(i) is the window at output position i; see `poolservice.specs.AdaptiveSpec`.

    Shape: (C, L) or (N, C, L) to (..., output_size).

    Range: each value of the result is a value of the input. The result has the input's dtype.

    NaN: a NaN gives NaN in the tiles that hold it. An infinity is a value like any other.

    Args:
        output_size: output size in elements, 0 or more: one int for all spatial dimensions, or one per dimension. None
            keeps the input's size. Required.
        return_indices: also return the position of each maximum in its input channel, as a flat index over the spatial
            dimensions in row-major order: int64, of the result's shape. Of several equal maxima it is the first, of
            several NaNs the last. Default: False.

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: torch.nn.AdaptiveMaxPool1d; He et al., "Spatial Pyramid Pooling in Deep Convolutional Networks for Visual
    Recognition", 2014.
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
            self: "AdaptiveMaxPool1d[ResultType]", output_size: OutputSize, return_indices: bool = False
        ) -> None: ...
        def __init__(self, *sizes: Any, **named: Any) -> None: ...


@dataclass(frozen=True, repr=False)
class AdaptiveMaxPool2d(_AdaptiveMaxPool[R_co]):
    """Maximum of each of output_size windows that tile the input, as torch.nn.AdaptiveMaxPool2d.

    out(i) = max of x over W(i), where W(i) is the window at output position i; see `poolservice.specs.AdaptiveSpec`.

    Shape: (C, H, W) or (N, C, H, W) to (..., *output_size).

    Range: each value of the result is a value of the input. The result has the input's dtype.

    NaN: a NaN gives NaN in the tiles that hold it. An infinity is a value like any other.

    Args:
        output_size: output size in elements, 0 or more: one int for all spatial dimensions, or one per dimension. None
            keeps the input's size. Required.
        return_indices: also return the position of each maximum in its input channel, as a flat index over the spatial
            dimensions in row-major order: int64, of the result's shape. Of several equal maxima it is the first, of
            several NaNs the last. Default: False.

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: torch.nn.AdaptiveMaxPool2d; He et al., "Spatial Pyramid Pooling in Deep Convolutional Networks for Visual
    Recognition", 2014.
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
            self: "AdaptiveMaxPool2d[ResultType]", output_size: OutputSize, return_indices: bool = False
        ) -> None: ...
        def __init__(self, *sizes: Any, **named: Any) -> None: ...


@dataclass(frozen=True, repr=False)
class AdaptiveMaxPool3d(_AdaptiveMaxPool[R_co]):
    """Maximum of each of output_size windows that tile the input, as torch.nn.AdaptiveMaxPool3d.

    out(i) = max of x over W(i), where W(i) is the window at output position i; see `poolservice.specs.AdaptiveSpec`.

    Shape: (C, D, H, W) or (N, C, D, H, W) to (..., *output_size).

    Range: each value of the result is a value of the input. The result has the input's dtype.

    NaN: a NaN gives NaN in the tiles that hold it. An infinity is a value like any other.

    Args:
        output_size: output size in elements, 0 or more: one int for all spatial dimensions, or one per dimension. None
            keeps the input's size. Required.
        return_indices: also return the position of each maximum in its input channel, as a flat index over the spatial
            dimensions in row-major order: int64, of the result's shape. Of several equal maxima it is the first, of
            several NaNs the last. Default: False.

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: torch.nn.AdaptiveMaxPool3d; He et al., "Spatial Pyramid Pooling in Deep Convolutional Networks for Visual
    Recognition", 2014.
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
            self: "AdaptiveMaxPool3d[ResultType]", output_size: OutputSize, return_indices: bool = False
        ) -> None: ...
        def __init__(self, *sizes: Any, **named: Any) -> None: ...
