"""AvgPool1d, AvgPool2d and AvgPool3d: the mean of each window."""

from dataclasses import dataclass
from typing import ClassVar

from poolservice.errors import InvalidRequest
from poolservice.specs.base import Size
from poolservice.specs.result_types import Values
from poolservice.specs.validation import integer, shown
from poolservice.specs.windows import WindowSpec


@dataclass(frozen=True, repr=False)
class _AvgPool(WindowSpec[Values]):
    operator: ClassVar[str] = "avg_pool"
    kernel_size: Size
    stride: Size | None = None
    padding: Size = 0
    ceil_mode: bool = False
    count_include_pad: bool = True


@dataclass(frozen=True, repr=False)
class _DivisorAvgPool(_AvgPool):
    """Adds the parameter that torch has in 2-D and 3-D only."""

    divisor_override: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.divisor_override is not None:
            divisor = integer("divisor_override", self.divisor_override, takes="an int or None")
            if divisor == 0 or not -(2**63) <= divisor < 2**63:
                raise InvalidRequest(
                    f"must be a 64-bit int other than 0; got {shown(divisor)}", field="divisor_override"
                )
            self._set("divisor_override", divisor)


@dataclass(frozen=True, repr=False)
class AvgPool1d(_AvgPool):
    """Mean of each window, as torch.nn.AvgPool1d; padding counts as 0.

    out(i) = sum of x over W(i) / n, where W(i) is the window at output position i and n is its number of elements.

    Shape: (C, L) or (N, C, L) to (..., L_out); see `poolservice.specs.WindowSpec` for the output size.

    Range: a sum beyond the range of the dtype that it is computed in, float64 for float64 and else float32, becomes
    infinite or NaN. Floating-point input keeps its dtype; integer input gives float32.

    NaN: a NaN gives NaN in the windows that hold it. An infinity gives the same infinity, and infinities of both signs
    give NaN.

    Args:
        kernel_size: window size in elements, at least 1: one int for all spatial dimensions, or one per dimension.
            Required.
        stride: distance between windows in elements, at least 1: one int, or one per dimension. Default:
            `kernel_size`.
        padding: elements added on both sides, 0 to half of `kernel_size`: one int, or one per dimension. They count as
            0. Default: 0.
        ceil_mode: round the output size up instead of down, so that a last, partly filled window counts. Default:
            False.
        count_include_pad: count the padding in n. Default: True.

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: torch.nn.AvgPool1d; LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998.
    """

    spatial_dims = 1


@dataclass(frozen=True, repr=False)
class AvgPool2d(_DivisorAvgPool):
    """Mean of each window, as torch.nn.AvgPool2d; padding counts as 0.

    out(i) = sum of x over W(i) / n, where W(i) is the window at output position i and n is its number of elements.

    Shape: (C, H, W) or (N, C, H, W) to (..., H_out, W_out); see `poolservice.specs.WindowSpec` for the output size.

    Range: a sum beyond the range of the dtype that it is computed in, float64 for float64 and else float32, becomes
    infinite or NaN. Floating-point input keeps its dtype; integer input gives float32.

    NaN: a NaN gives NaN in the windows that hold it. An infinity gives the same infinity, and infinities of both signs
    give NaN. A negative `divisor_override` changes their sign.

    Args:
        kernel_size: window size in elements, at least 1: one int for all spatial dimensions, or one per dimension.
            Required.
        stride: distance between windows in elements, at least 1: one int, or one per dimension. Default:
            `kernel_size`.
        padding: elements added on both sides, 0 to half of `kernel_size`: one int, or one per dimension. They count as
            0. Default: 0.
        ceil_mode: round the output size up instead of down, so that a last, partly filled window counts. Default:
            False.
        count_include_pad: count the padding in n. Default: True.
        divisor_override: n, a 64-bit int other than 0. Default: None, the number of elements as described above.

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: torch.nn.AvgPool2d; LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998.
    """

    spatial_dims = 2


@dataclass(frozen=True, repr=False)
class AvgPool3d(_DivisorAvgPool):
    """Mean of each window, as torch.nn.AvgPool3d; padding counts as 0.

    out(i) = sum of x over W(i) / n, where W(i) is the window at output position i and n is its number of elements.

    Shape: (C, D, H, W) or (N, C, D, H, W) to (..., D_out, H_out, W_out); see `poolservice.specs.WindowSpec` for the
    output size.

    Range: a sum beyond the range of the dtype that it is computed in, float64 for float64 and else float32, becomes
    infinite or NaN. Floating-point input keeps its dtype; integer input gives float32.

    NaN: a NaN gives NaN in the windows that hold it. An infinity gives the same infinity, and infinities of both signs
    give NaN. A negative `divisor_override` changes their sign.

    Args:
        kernel_size: window size in elements, at least 1: one int for all spatial dimensions, or one per dimension.
            Required.
        stride: distance between windows in elements, at least 1: one int, or one per dimension. Default:
            `kernel_size`.
        padding: elements added on both sides, 0 to half of `kernel_size`: one int, or one per dimension. They count as
            0. Default: 0.
        ceil_mode: round the output size up instead of down, so that a last, partly filled window counts. Default:
            False.
        count_include_pad: count the padding in n. Default: True.
        divisor_override: n, a 64-bit int other than 0. Default: None, the number of elements as described above.

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: torch.nn.AvgPool3d; LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998.
    """

    spatial_dims = 3
