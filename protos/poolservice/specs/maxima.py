"""The layers that pick an element of a window that slides over the input: its maximum.

Each is a description, not the computation: what a service is asked to do. W(i) is the window at output position i.

Each layer repeats the overloads of its constructor, since mypy follows a type of `self` only in the class that has it.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, overload

from poolservice.specs.base import Size, WindowSpec
from poolservice.specs.results import R_co, Result, Values, ValuesAndIndices


@dataclass(frozen=True, repr=False)
class _MaxPool(WindowSpec[R_co]):
    """Max pooling: out(i) = max of x over W(i). The result has the input's type.

    Padding counts as -infinity, or the least integer, so it is never chosen. NaN wins. The index of equal
    elements is the first one's in row-major order, of several NaNs the last one's.

    Args:
        return_indices: whether to return, for each maximum, its flat position in the input's spatial plane, counted
            in row-major order. int64, the result's shape. Default: False.

    Source: torch.nn.MaxPool; Riesenhuber and Poggio, "Hierarchical models of object recognition in cortex", 1999.
    """

    operator: ClassVar[str] = "max_pool"
    kernel_size: Size
    stride: Size | None = None
    padding: Size = 0
    dilation: Size = 1
    return_indices: bool = False
    ceil_mode: bool = False


@dataclass(frozen=True, repr=False)
class MaxPool1d(_MaxPool[R_co]):
    """The maximum of each window, as torch.nn.MaxPool1d; padding counts as -infinity.

    out(i) = max of x over W(i), of the input's type.

    Shape: (C, L) or (N, C, L) to (..., L_out); sizes as in `WindowSpec`.
    """

    spatial_dims = 1

    if TYPE_CHECKING:

        @overload
        def __init__(
            self: "MaxPool1d[Values]",
            kernel_size: Size,
            stride: Size | None = None,
            padding: Size = 0,
            dilation: Size = 1,
            return_indices: Literal[False] = False,
            ceil_mode: bool = False,
        ) -> None: ...
        @overload
        def __init__(
            self: "MaxPool1d[ValuesAndIndices]",
            kernel_size: Size,
            stride: Size | None = None,
            padding: Size = 0,
            dilation: Size = 1,
            return_indices: Literal[True] = True,
            ceil_mode: bool = False,
        ) -> None: ...
        @overload
        def __init__(
            self: "MaxPool1d[Result]",
            kernel_size: Size,
            stride: Size | None = None,
            padding: Size = 0,
            dilation: Size = 1,
            return_indices: bool = False,
            ceil_mode: bool = False,
        ) -> None: ...
        def __init__(self, *sizes: Any, **named: Any) -> None: ...


@dataclass(frozen=True, repr=False)
class MaxPool2d(_MaxPool[R_co]):
    """The maximum of each window, as torch.nn.MaxPool2d; padding counts as -infinity.

    out(i) = max of x over W(i), of the input's type.

    Shape: (C, H, W) or (N, C, H, W) to (..., H_out, W_out); sizes as in `WindowSpec`.
    """

    spatial_dims = 2

    if TYPE_CHECKING:

        @overload
        def __init__(
            self: "MaxPool2d[Values]",
            kernel_size: Size,
            stride: Size | None = None,
            padding: Size = 0,
            dilation: Size = 1,
            return_indices: Literal[False] = False,
            ceil_mode: bool = False,
        ) -> None: ...
        @overload
        def __init__(
            self: "MaxPool2d[ValuesAndIndices]",
            kernel_size: Size,
            stride: Size | None = None,
            padding: Size = 0,
            dilation: Size = 1,
            return_indices: Literal[True] = True,
            ceil_mode: bool = False,
        ) -> None: ...
        @overload
        def __init__(
            self: "MaxPool2d[Result]",
            kernel_size: Size,
            stride: Size | None = None,
            padding: Size = 0,
            dilation: Size = 1,
            return_indices: bool = False,
            ceil_mode: bool = False,
        ) -> None: ...
        def __init__(self, *sizes: Any, **named: Any) -> None: ...


@dataclass(frozen=True, repr=False)
class MaxPool3d(_MaxPool[R_co]):
    """The maximum of each window, as torch.nn.MaxPool3d; padding counts as -infinity.

    out(i) = max of x over W(i), of the input's type.

    Shape: (C, D, H, W) or (N, C, D, H, W) to (..., D_out, H_out, W_out); sizes as in `WindowSpec`.
    """

    spatial_dims = 3

    if TYPE_CHECKING:

        @overload
        def __init__(
            self: "MaxPool3d[Values]",
            kernel_size: Size,
            stride: Size | None = None,
            padding: Size = 0,
            dilation: Size = 1,
            return_indices: Literal[False] = False,
            ceil_mode: bool = False,
        ) -> None: ...
        @overload
        def __init__(
            self: "MaxPool3d[ValuesAndIndices]",
            kernel_size: Size,
            stride: Size | None = None,
            padding: Size = 0,
            dilation: Size = 1,
            return_indices: Literal[True] = True,
            ceil_mode: bool = False,
        ) -> None: ...
        @overload
        def __init__(
            self: "MaxPool3d[Result]",
            kernel_size: Size,
            stride: Size | None = None,
            padding: Size = 0,
            dilation: Size = 1,
            return_indices: bool = False,
            ceil_mode: bool = False,
        ) -> None: ...
        def __init__(self, *sizes: Any, **named: Any) -> None: ...
