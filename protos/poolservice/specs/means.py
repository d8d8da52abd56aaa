"""The layers that sum over a window that slides over the input: mean, power sum, and a blend of mean and maximum.

Each is a description, not the computation: what a service is asked to do. W(i) is the window at output position i.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from poolservice.errors import InvalidRequest
from poolservice.specs.base import Size, WindowSpec, integer, real, shown
from poolservice.specs.results import Values


@dataclass(frozen=True, repr=False)
class _AvgPool(WindowSpec[Values]):
    """Average pooling: out(i) = sum of x over W(i) / n. Floats keep their type, integers give float32.

    Padding counts as 0. n is the window's size, padding included.

    Args:
        count_include_pad: whether n counts padding. Default: True.

    Source: torch.nn.AvgPool; LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998.
    """

    operator: ClassVar[str] = "avg_pool"
    kernel_size: Size
    stride: Size | None = None
    padding: Size = 0
    ceil_mode: bool = False
    count_include_pad: bool = True


@dataclass(frozen=True, repr=False)
class _DivisorAvgPool(_AvgPool):
    """Average pooling in 2-D and 3-D, where torch lets the divisor be chosen.

    Args:
        divisor_override: n, any int of 64 bits but 0. Default: None, the count that is described above.
    """

    divisor_override: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.divisor_override is not None:
            divisor = integer("divisor_override", self.divisor_override, takes="an int or None")
            if divisor == 0 or not -(2**63) <= divisor < 2**63:
                raise InvalidRequest(
                    f"must be an int of 64 bits other than 0; got {shown(divisor)}", field="divisor_override"
                )
            self._set("divisor_override", divisor)


@dataclass(frozen=True, repr=False)
class _LPPool(WindowSpec[Values]):
    """Power-sum pooling: out(i) = (sum of x^p over W(i))^(1/p). Floats keep their type, integers give float32.

    As in torch the sum is not divided by the window's size, and x^p keeps its sign, so an odd p on negative input can
    give NaN; with p = 1 it is the sum.

    Args:
        norm_type: p, finite and not 0; its limit at infinity is max pooling. Required.

    Source: torch.nn.LPPool; Sermanet, Chintala and LeCun, "Convolutional Neural Networks Applied to House Numbers
    Digit Classification", 2012.
    """

    operator: ClassVar[str] = "lp_pool"
    norm_type: float
    kernel_size: Size
    stride: Size | None = None
    ceil_mode: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("norm_type", real("norm_type", self.norm_type))
        if self.norm_type == 0 or not math.isfinite(self.norm_type):
            raise InvalidRequest(
                f"must be finite and other than 0 (its limit at infinity is MaxPool); got {self.norm_type}",
                field="norm_type",
            )


@dataclass(frozen=True, repr=False)
class _MixedPool(WindowSpec[Values]):
    """Mixed pooling: out(i) = alpha * max of x over W(i) + (1 - alpha) * mean of x over W(i).

    Padding counts as -infinity for the maximum and as 0 for the mean, which counts it. Floats keep their type,
    integers give float32.

    Args:
        alpha: the maximum's share, 0 to 1. Default: 0.5.

    Source: Lee, Gallagher and Tu, "Generalizing Pooling Functions in Convolutional Neural Networks: Mixed, Gated, and
    Tree", 2015.
    """

    operator: ClassVar[str] = "mixed_pool"
    kernel_size: Size
    stride: Size | None = None
    padding: Size = 0
    alpha: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("alpha", real("alpha", self.alpha))
        if not 0 <= self.alpha <= 1:
            raise InvalidRequest(f"must be from 0 (the mean) to 1 (the maximum); got {self.alpha}", field="alpha")


@dataclass(frozen=True, repr=False)
class AvgPool1d(_AvgPool):
    """The mean of each window, as torch.nn.AvgPool1d; padding counts as 0.

    out(i) = sum of x over W(i) / size of W(i); integers give float32.

    Shape: (C, L) or (N, C, L) to (..., L_out); sizes as in `WindowSpec`.
    """

    spatial_dims = 1


@dataclass(frozen=True, repr=False)
class AvgPool2d(_DivisorAvgPool):
    """The mean of each window, as torch.nn.AvgPool2d; padding counts as 0.

    out(i) = sum of x over W(i) / size of W(i); integers give float32.

    Shape: (C, H, W) or (N, C, H, W) to (..., H_out, W_out); sizes as in `WindowSpec`.
    """

    spatial_dims = 2


@dataclass(frozen=True, repr=False)
class AvgPool3d(_DivisorAvgPool):
    """The mean of each window, as torch.nn.AvgPool3d; padding counts as 0.

    out(i) = sum of x over W(i) / size of W(i); integers give float32.

    Shape: (C, D, H, W) or (N, C, D, H, W) to (..., D_out, H_out, W_out); sizes as in `WindowSpec`.
    """

    spatial_dims = 3


@dataclass(frozen=True, repr=False)
class LPPool1d(_LPPool):
    """The power sum of each window, as torch.nn.LPPool1d.

    out(i) = (sum of x^p over W(i))^(1/p); integers give float32.

    Shape: (C, L) or (N, C, L) to (..., L_out); sizes as in `WindowSpec`.
    """

    spatial_dims = 1


@dataclass(frozen=True, repr=False)
class LPPool2d(_LPPool):
    """The power sum of each window, as torch.nn.LPPool2d.

    out(i) = (sum of x^p over W(i))^(1/p); integers give float32.

    Shape: (C, H, W) or (N, C, H, W) to (..., H_out, W_out); sizes as in `WindowSpec`.
    """

    spatial_dims = 2


@dataclass(frozen=True, repr=False)
class LPPool3d(_LPPool):
    """The power sum of each window, as torch.nn.LPPool3d.

    out(i) = (sum of x^p over W(i))^(1/p); integers give float32.

    Shape: (C, D, H, W) or (N, C, D, H, W) to (..., D_out, H_out, W_out); sizes as in `WindowSpec`.
    """

    spatial_dims = 3


@dataclass(frozen=True, repr=False)
class MixedPool1d(_MixedPool):
    """A blend of the maximum and the mean of each window (Lee, Gallagher and Tu, 2015).

    out(i) = alpha * MaxPool1d(x) + (1 - alpha) * AvgPool1d(x); integers give float32.

    Shape: (C, L) or (N, C, L) to (..., L_out); sizes as in `WindowSpec`.
    """

    spatial_dims = 1


@dataclass(frozen=True, repr=False)
class MixedPool2d(_MixedPool):
    """A blend of the maximum and the mean of each window (Lee, Gallagher and Tu, 2015).

    out(i) = alpha * MaxPool2d(x) + (1 - alpha) * AvgPool2d(x); integers give float32.

    Shape: (C, H, W) or (N, C, H, W) to (..., H_out, W_out); sizes as in `WindowSpec`.
    """

    spatial_dims = 2


@dataclass(frozen=True, repr=False)
class MixedPool3d(_MixedPool):
    """A blend of the maximum and the mean of each window (Lee, Gallagher and Tu, 2015).

    out(i) = alpha * MaxPool3d(x) + (1 - alpha) * AvgPool3d(x); integers give float32.

    Shape: (C, D, H, W) or (N, C, D, H, W) to (..., D_out, H_out, W_out); sizes as in `WindowSpec`.
    """

    spatial_dims = 3
