"""The layers that pick an element of a window that slides over the input: its minimum.

Each is a description, not the computation: what a service is asked to do. W(i) is the window at output position i.

Each layer repeats the overloads of its constructor, since mypy follows a type of `self` only in the class that has it.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, overload

from poolservice.specs.base import Size, WindowSpec
from poolservice.specs.results import R_co, Result, Values, ValuesAndIndices


@dataclass(frozen=True, repr=False)
class _MinPool(WindowSpec[R_co]):
    """Min pooling, which torch lacks: out(i) = min of x over W(i) = -MaxPool(-x). The result has the input's type.

    Padding counts as +infinity, or the greatest integer, so it is never chosen. NaN wins. The index of equal
    elements is the first one's in row-major order, of several NaNs the last one's.

    Args:
        return_indices: whether to return, for each minimum, its flat position in the input's spatial plane, counted
            in row-major order. int64, the result's shape. Default: False.

    Source: erosion by a box; Serra, "Image Analysis and Mathematical Morphology", 1982.
    """

    operator: ClassVar[str] = "min_pool"
    kernel_size: Size
    stride: Size | None = None
    padding: Size = 0
    dilation: Size = 1
    return_indices: bool = False
    ceil_mode: bool = False


@dataclass(frozen=True, repr=False)
class MinPool1d(_MinPool[R_co]):
    """The minimum of each window; padding counts as +infinity.

    out(i) = min of x over W(i) = -MaxPool1d(-x), of the input's type.

    Shape: (C, L) or (N, C, L) to (..., L_out); sizes as in `WindowSpec`.
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
            self: "MinPool1d[Result]",
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
    """The minimum of each window; padding counts as +infinity.

    out(i) = min of x over W(i) = -MaxPool2d(-x), of the input's type.

    Shape: (C, H, W) or (N, C, H, W) to (..., H_out, W_out); sizes as in `WindowSpec`.
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
            self: "MinPool2d[Result]",
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
    """The minimum of each window; padding counts as +infinity.

    out(i) = min of x over W(i) = -MaxPool3d(-x), of the input's type.

    Shape: (C, D, H, W) or (N, C, D, H, W) to (..., D_out, H_out, W_out); sizes as in `WindowSpec`.
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
            self: "MinPool3d[Result]",
            kernel_size: Size,
            stride: Size | None = None,
            padding: Size = 0,
            dilation: Size = 1,
            return_indices: bool = False,
            ceil_mode: bool = False,
        ) -> None: ...
        def __init__(self, *sizes: Any, **named: Any) -> None: ...
