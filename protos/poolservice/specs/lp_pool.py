"""LPPool1d, LPPool2d and LPPool3d: the power sum of each window."""

import math
from dataclasses import dataclass
from typing import ClassVar

from poolservice.errors import InvalidRequest
from poolservice.specs.base import Size
from poolservice.specs.result_types import Values
from poolservice.specs.validation import real
from poolservice.specs.windows import WindowSpec


@dataclass(frozen=True, repr=False)
class _LPPool(WindowSpec[Values]):
    operator: ClassVar[str] = "lp_pool"
    norm_type: float
    kernel_size: Size
    stride: Size | None = None
    ceil_mode: bool = False
    absolute: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set_flag("absolute")
        self._set("norm_type", real("norm_type", self.norm_type))
        if self.absolute and self.norm_type == math.inf:
            return
        if self.norm_type == 0 or not math.isfinite(self.norm_type):
            raise InvalidRequest(
                "must be finite and other than 0, or inf with absolute=True (without it, use MaxPool); "
                f"got {self.norm_type}",
                field="norm_type",
            )


@dataclass(frozen=True, repr=False)
class LPPool1d(_LPPool):
    """Power sum of each window, as torch.nn.LPPool1d.

    out(i) = (sum of x^p over W(i))^(1/p), where W(i) is the window at output position i. As in torch, the sum is not
    divided by the window size, and x^p keeps its sign, so that an odd p on negative input can give NaN.

    With `absolute`, which torch lacks, out(i) = (sum of |x|^p over W(i))^(1/p): the norm of the window, as ONNX's
    LpPool, or for p = inf the maximum of |x|. A partly filled last window has the norm of its values; torch's sum is
    its mean times the window size.

    Shape: (C, L) or (N, C, L) to (..., L_out); see `poolservice.specs.WindowSpec` for the output size.

    Range: sums of the powers beyond the range of the dtype that they are computed in, float64 for float64 and else
    float32, become infinite; with `absolute`, only norms beyond it do. Floating-point input keeps its dtype; integer
    input gives float32.

    NaN: a NaN gives NaN in the windows that hold it. For a positive p, an infinity gives inf, or for p = 1 without
    `absolute` itself. Without `absolute`, -inf gives NaN for p = 0.5, and infinities of both signs for an odd p. With
    `absolute`, either can change the rounding of the sample's other results.

    Args:
        norm_type: the power p, finite and other than 0, or inf with `absolute`. p = 1 gives the sum; for the limit at
            infinity without `absolute` use max pooling. Required.
        kernel_size: window size in elements, at least 1: one int for all spatial dimensions, or one per dimension.
            Required.
        stride: distance between windows in elements, at least 1: one int, or one per dimension. Default:
            `kernel_size`.
        ceil_mode: round the output size up instead of down, so that a last, partly filled window counts. Default:
            False.
        absolute: sum the powers of the magnitudes. Default: False, as in torch.

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: torch.nn.LPPool1d; Sermanet, Chintala and LeCun, "Convolutional Neural Networks Applied to House Numbers
    Digit Classification", 2012.
    """

    spatial_dims = 1


@dataclass(frozen=True, repr=False)
class LPPool2d(_LPPool):
    """Power sum of each window, as torch.nn.LPPool2d.

    out(i) = (sum of x^p over W(i))^(1/p), where W(i) is the window at output position i. As in torch, the sum is not
    divided by the window size, and x^p keeps its sign, so that an odd p on negative input can give NaN.

    With `absolute`, which torch lacks, out(i) = (sum of |x|^p over W(i))^(1/p): the norm of the window, as ONNX's
    LpPool, or for p = inf the maximum of |x|. A partly filled last window has the norm of its values; torch's sum is
    its mean times the window size.

    Shape: (C, H, W) or (N, C, H, W) to (..., H_out, W_out); see `poolservice.specs.WindowSpec` for the output size.

    Range: sums of the powers beyond the range of the dtype that they are computed in, float64 for float64 and else
    float32, become infinite; with `absolute`, only norms beyond it do. Floating-point input keeps its dtype; integer
    input gives float32.

    NaN: a NaN gives NaN in the windows that hold it. For a positive p, an infinity gives inf, or for p = 1 without
    `absolute` itself. Without `absolute`, -inf gives NaN for p = 0.5, and infinities of both signs for an odd p. With
    `absolute`, either can change the rounding of the sample's other results.

    Args:
        norm_type: the power p, finite and other than 0, or inf with `absolute`. p = 1 gives the sum; for the limit at
            infinity without `absolute` use max pooling. Required.
        kernel_size: window size in elements, at least 1: one int for all spatial dimensions, or one per dimension.
            Required.
        stride: distance between windows in elements, at least 1: one int, or one per dimension. Default:
            `kernel_size`.
        ceil_mode: round the output size up instead of down, so that a last, partly filled window counts. Default:
            False.
        absolute: sum the powers of the magnitudes. Default: False, as in torch.

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: torch.nn.LPPool2d; Sermanet, Chintala and LeCun, "Convolutional Neural Networks Applied to House Numbers
    Digit Classification", 2012.
    """

    spatial_dims = 2


@dataclass(frozen=True, repr=False)
class LPPool3d(_LPPool):
    """Power sum of each window, as torch.nn.LPPool3d.

    out(i) = (sum of x^p over W(i))^(1/p), where W(i) is the window at output position i. As in torch, the sum is not
    divided by the window size, and x^p keeps its sign, so that an odd p on negative input can give NaN.

    With `absolute`, which torch lacks, out(i) = (sum of |x|^p over W(i))^(1/p): the norm of the window, as ONNX's
    LpPool, or for p = inf the maximum of |x|. A partly filled last window has the norm of its values; torch's sum is
    its mean times the window size.

    Shape: (C, D, H, W) or (N, C, D, H, W) to (..., D_out, H_out, W_out); see `poolservice.specs.WindowSpec` for the
    output size.

    Range: sums of the powers beyond the range of the dtype that they are computed in, float64 for float64 and else
    float32, become infinite; with `absolute`, only norms beyond it do. Floating-point input keeps its dtype; integer
    input gives float32.

    NaN: a NaN gives NaN in the windows that hold it. For a positive p, an infinity gives inf, or for p = 1 without
    `absolute` itself. Without `absolute`, -inf gives NaN for p = 0.5, and infinities of both signs for an odd p. With
    `absolute`, either can change the rounding of the sample's other results.

    Args:
        norm_type: the power p, finite and other than 0, or inf with `absolute`. p = 1 gives the sum; for the limit at
            infinity without `absolute` use max pooling. Required.
        kernel_size: window size in elements, at least 1: one int for all spatial dimensions, or one per dimension.
            Required.
        stride: distance between windows in elements, at least 1: one int, or one per dimension. Default:
            `kernel_size`.
        ceil_mode: round the output size up instead of down, so that a last, partly filled window counts. Default:
            False.
        absolute: sum the powers of the magnitudes. Default: False, as in torch.

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: torch.nn.LPPool3d; Sermanet, Chintala and LeCun, "Convolutional Neural Networks Applied to House Numbers
    Digit Classification", 2012.
    """

    spatial_dims = 3
