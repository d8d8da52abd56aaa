"""MinPool1d, MinPool2d and MinPool3d: the minimum of each window.

Each layer repeats the overloads of its constructor, because mypy honors the annotation of `self` only in the class
that declares it.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, overload

from poolservice.specs.base import Size
from poolservice.specs.result_types import R_co, ResultType, Values, ValuesAndIndices
from poolservice.specs.windows import WindowSpec


@dataclass(frozen=True, repr=False)
class _MinPool(WindowSpec[R_co]):
    operator: ClassVar[str] = "min_pool"
    keeps_dtype: ClassVar[bool] = True
    kernel_size: Size
    stride: Size | None = None
    padding: Size = 0
    dilation: Size = 1
    return_indices: bool = False
    ceil_mode: bool = False


@dataclass(frozen=True, repr=False)
class MinPool1d(_MinPool[R_co]):
    """Minimum of each window; padding counts as +infinity.

    out(i) = min of x over W(i) = -MaxPool1d(-x)(i), where W(i) is the window at output position i. torch has no such
    layer.

    Shape: (C, L) or (N, C, L) to (..., L_out); see `poolservice.specs.WindowSpec` for the output size.

    Range: each value of the result is a value of the input. The result has the input's dtype.

    NaN: a NaN gives NaN in the windows that hold it. An infinity is a value like any other.

    Args:
        kernel_size: window size in elements, at least 1: one int for all spatial dimensions, or one per dimension.
            Required.
        stride: distance between windows in elements, at least 1: one int, or one per dimension. Default:
            `kernel_size`.
        padding: elements added on both sides, 0 to half of `kernel_size`: one int, or one per dimension. They count as
            +infinity, or as the highest value of an integer dtype, so that they are never chosen. Default: 0.
        dilation: distance between the elements of a window, at least 1: one int, or one per dimension. Default: 1.
        return_indices: also return the position of each minimum in its input channel, as a flat index over the spatial
            dimensions in row-major order: int64, of the result's shape. Of several equal minima it is the first, of
            several NaNs the last. Default: False.
        ceil_mode: round the output size up instead of down, so that a last, partly filled window counts. Default:
            False.

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: erosion by a box; Serra, "Image Analysis and Mathematical Morphology", 1982.
    """

    spatial_dims = 1

    if TYPE_CHECKING:

        @overload
        def __init__(
            self: "MinPool1d[Values]",
            kernel_size: Size,
            stride: Size | None = None,
            padding: Size = 0,
            dilation: Size = 1,
            return_indices: Literal[False] = False,
            ceil_mode: bool = False,
        ) -> None: ...
        @overload
        def __init__(
            self: "MinPool1d[ValuesAndIndices]",
            kernel_size: Size,
            stride: Size | None = None,
            padding: Size = 0,
            dilation: Size = 1,
            return_indices: Literal[True] = True,
            ceil_mode: bool = False,
        ) -> None: ...
        @overload
        def __init__(
            self: "MinPool1d[ResultType]",
            kernel_size: Size,
            stride: Size | None = None,
            padding: Size = 0,
            dilation: Size = 1,
            return_indices: bool = False,
            ceil_mode: bool = False,
        ) -> None: ...
        def __init__(self, *sizes: Any, **named: Any) -> None: ...


@dataclass(frozen=True, repr=False)
class MinPool2d(_MinPool[R_co]):
    """Minimum of each window; padding counts as +infinity.

    out(i) = min of x over W(i) = -MaxPool2d(-x)(i), where W(i) is the window at output position i. torch has no such
    layer.

    Shape: (C, H, W) or (N, C, H, W) to (..., H_out, W_out); see `poolservice.specs.WindowSpec` for the output size.

    Range: each value of the result is a value of the input. The result has the input's dtype.

    NaN: a NaN gives NaN in the windows that hold it. An infinity is a value like any other.

    Args:
        kernel_size: window size in elements, at least 1: one int for all spatial dimensions, or one per dimension.
            Required.
        stride: distance between windows in elements, at least 1: one int, or one per dimension. Default:
            `kernel_size`.
        padding: elements added on both sides, 0 to half of `kernel_size`: one int, or one per dimension. They count as
            +infinity, or as the highest value of an integer dtype, so that they are never chosen. Default: 0.
        dilation: distance between the elements of a window, at least 1: one int, or one per dimension. Default: 1.
        return_indices: also return the position of each minimum in its input channel, as a flat index over the spatial
            dimensions in row-major order: int64, of the result's shape. Of several equal minima it is the first, of
            several NaNs the last. Default: False.
        ceil_mode: round the output size up instead of down, so that a last, partly filled window counts. Default:
            False.

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: erosion by a box; Serra, "Image Analysis and Mathematical Morphology", 1982.
    """

    spatial_dims = 2

    if TYPE_CHECKING:

        @overload
        def __init__(
            self: "MinPool2d[Values]",
            kernel_size: Size,
            stride: Size | None = None,
            padding: Size = 0,
            dilation: Size = 1,
            return_indices: Literal[False] = False,
            ceil_mode: bool = False,
        ) -> None: ...
        @overload
        def __init__(
            self: "MinPool2d[ValuesAndIndices]",
            kernel_size: Size,
            stride: Size | None = None,
            padding: Size = 0,
            dilation: Size = 1,
            return_indices: Literal[True] = True,
            ceil_mode: bool = False,
        ) -> None: ...
        @overload
        def __init__(
            self: "MinPool2d[ResultType]",
            kernel_size: Size,
            stride: Size | None = None,
            padding: Size = 0,
            dilation: Size = 1,
            return_indices: bool = False,
            ceil_mode: bool = False,
        ) -> None: ...
        def __init__(self, *sizes: Any, **named: Any) -> None: ...


@dataclass(frozen=True, repr=False)
class MinPool3d(_MinPool[R_co]):
    """Minimum of each window; padding counts as +infinity.

    out(i) = min of x over W(i) = -MaxPool3d(-x)(i), where W(i) is the window at output position i. torch has no such
    layer.

    Shape: (C, D, H, W) or (N, C, D, H, W) to (..., D_out, H_out, W_out); see `poolservice.specs.WindowSpec` for the
    output size.

    Range: each value of the result is a value of the input. The result has the input's dtype.

    NaN: a NaN gives NaN in the windows that hold it. An infinity is a value like any other.

    Args:
        kernel_size: window size in elements, at least 1: one int for all spatial dimensions, or one per dimension.
            Required.
        stride: distance between windows in elements, at least 1: one int, or one per dimension. Default:
            `kernel_size`.
        padding: elements added on both sides, 0 to half of `kernel_size`: one int, or one per dimension. They count as
            +infinity, or as the highest value of an integer dtype, so that they are never chosen. Default: 0.
        dilation: distance between the elements of a window, at least 1: one int, or one per dimension. Default: 1.
        return_indices: also return the position of each minimum in its input channel, as a flat index over the spatial
            dimensions in row-major order: int64, of the result's shape. Of several equal minima it is the first, of
            several NaNs the last. Default: False.
        ceil_mode: round the output size up instead of down, so that a last, partly filled window counts. Default:
            False.

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: erosion by a box; Serra, "Image Analysis and Mathematical Morphology", 1982.
    """

    spatial_dims = 3

    if TYPE_CHECKING:

        @overload
        def __init__(
            self: "MinPool3d[Values]",
            kernel_size: Size,
            stride: Size | None = None,
            padding: Size = 0,
            dilation: Size = 1,
            return_indices: Literal[False] = False,
            ceil_mode: bool = False,
        ) -> None: ...
        @overload
        def __init__(
            self: "MinPool3d[ValuesAndIndices]",
            kernel_size: Size,
            stride: Size | None = None,
            padding: Size = 0,
            dilation: Size = 1,
            return_indices: Literal[True] = True,
            ceil_mode: bool = False,
        ) -> None: ...
        @overload
        def __init__(
            self: "MinPool3d[ResultType]",
            kernel_size: Size,
            stride: Size | None = None,
            padding: Size = 0,
            dilation: Size = 1,
            return_indices: bool = False,
            ceil_mode: bool = False,
        ) -> None: ...
        def __init__(self, *sizes: Any, **named: Any) -> None: ...
