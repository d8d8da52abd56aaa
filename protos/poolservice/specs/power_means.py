"""GeMPool, GGeMPool and PowerAvgPool in one, two and three dimensions: the power mean of each window."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from poolservice.errors import InvalidRequest
from poolservice.specs.base import Size
from poolservice.specs.result_types import Values
from poolservice.specs.windows import WindowOrPlaneSpec

# Below the least power, a root has no digits left in float32; above the largest one, a mean is the maximum.
_LEAST_POWER, _LARGEST_POWER = 0.05, 1e6


@dataclass(frozen=True, repr=False)
class _GeMPool(WindowOrPlaneSpec[Values]):
    """Generalized mean of each window, over its values of at least eps (Radenović, Tolias and Chum, 2018).

    out(i) = (mean of max(x, eps)^p over W(i))^(1/p), where W(i) is the window at output position i. p = 1 gives the
    mean; a large p approaches the maximum.

    Shape: (C, *) or (N, C, *) to (..., *out); see `poolservice.specs.WindowSpec` for the output size. Without a
    `kernel_size`, each dimension of *out is 1.

    Range: nothing overflows or is lost to underflow, whatever p, up to magnitudes of 3.4e38, or for float64 of
    1.79e308. Between there and the largest number, rounding may give inf. Floating-point input keeps its dtype; integer
    input gives float32.

    NaN: a NaN gives NaN in the windows that hold it. inf gives inf, and -inf counts like any other low value. Either
    can change the rounding of the sample's other results.

    Args:
        p: the power, 0.05 to 1e6: one number, or one for each channel. Default: 3.0.
        kernel_size: window size in elements, at least 1: one int for all spatial dimensions, or one per dimension.
            Default: each whole plane.
        stride: distance between windows in elements, at least 1: one int, or one per dimension. Default:
            `kernel_size`.
        padding: elements added on both sides, 0 to half of `kernel_size`: one int, or one per dimension. They do not
            count. Default: 0.
        ceil_mode: round the output size up instead of down, so that a last, partly filled window counts. Default:
            False.
        eps: smaller values count as this one, 0 to 1e30. Default: 1e-6, as in the authors' code.

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: Radenović, Tolias and Chum, "Fine-tuning CNN Image Retrieval with No Human Annotation", 2018.
    """

    operator: ClassVar[str] = "gem_pool"
    per_channel: ClassVar[tuple[str, ...]] = ("p",)
    p: float | Sequence[float] = 3.0
    kernel_size: Size | None = None
    stride: Size | None = None
    padding: Size = 0
    ceil_mode: bool = False
    eps: float = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set_real("p", _LEAST_POWER, _LARGEST_POWER, per_channel=True)
        self._set_real("eps", 0.0, 1e30)


class GeMPool1d(_GeMPool):
    """Generalized mean of each window, over one dimension."""

    spatial_dims = 1


class GeMPool2d(_GeMPool):
    """Generalized mean of each window, over two dimensions."""

    spatial_dims = 2


class GeMPool3d(_GeMPool):
    """Generalized mean of each window, over three dimensions."""

    spatial_dims = 3


@dataclass(frozen=True, repr=False)
class _GGeMPool(WindowOrPlaneSpec[Values]):
    """Generalized mean of each window, with a power for each group of channels (Ko et al., 2022).

    out(i) = (mean of max(x, eps)^p over W(i))^(1/p), where W(i) is the window at output position i and p is the power
    of the channel's group. The channels form as many groups as `p` has numbers: the first group has the first channels,
    and all groups have the same number of them.

    Shape: (C, *) or (N, C, *) to (..., *out); see `poolservice.specs.WindowSpec` for the output size. Without a
    `kernel_size`, each dimension of *out is 1. C is a multiple of the number of groups.

    Range: nothing overflows or is lost to underflow, whatever p, up to magnitudes of 3.4e38, or for float64 of
    1.79e308. Between there and the largest number, rounding may give inf. Floating-point input keeps its dtype; integer
    input gives float32.

    NaN: a NaN gives NaN in the windows that hold it. inf gives inf, and -inf counts like any other low value. Either
    can change the rounding of the sample's other results.

    Args:
        p: the power of each group, 0.05 to 1e6. Required.
        kernel_size: window size in elements, at least 1: one int for all spatial dimensions, or one per dimension.
            Default: each whole plane.
        stride: distance between windows in elements, at least 1: one int, or one per dimension. Default:
            `kernel_size`.
        padding: elements added on both sides, 0 to half of `kernel_size`: one int, or one per dimension. They do not
            count. Default: 0.
        ceil_mode: round the output size up instead of down, so that a last, partly filled window counts. Default:
            False.
        eps: smaller values count as this one, 0 to 1e30. Default: 1e-6, as for GeMPool.

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: Ko et al., "Group Generalized Mean Pooling for Vision Transformer", 2022.
    """

    operator: ClassVar[str] = "ggem_pool"
    p: Sequence[float]
    kernel_size: Size | None = None
    stride: Size | None = None
    padding: Size = 0
    ceil_mode: bool = False
    eps: float = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set_real("p", _LEAST_POWER, _LARGEST_POWER, per_channel=True, owner="group of channels")
        self._set_real("eps", 0.0, 1e30)

    def check_shape(self, shape: tuple[int, ...], out: tuple[int, ...]) -> None:
        """Check that the channels can be divided into the groups."""
        channels = shape[-1 - self.spatial_dims]
        if isinstance(self.p, tuple) and channels % len(self.p):
            raise InvalidRequest(
                f"must have one number for each group of channels; {channels} channels cannot be divided into "
                f"{len(self.p)} groups",
                field="p",
            )


class GGeMPool1d(_GGeMPool):
    """Generalized mean of each window with a power for each group of channels, over one dimension."""

    spatial_dims = 1


class GGeMPool2d(_GGeMPool):
    """Generalized mean of each window with a power for each group of channels, over two dimensions."""

    spatial_dims = 2


class GGeMPool3d(_GGeMPool):
    """Generalized mean of each window with a power for each group of channels, over three dimensions."""

    spatial_dims = 3


@dataclass(frozen=True, repr=False)
class _PowerAvgPool(WindowOrPlaneSpec[Values]):
    """Power mean of the magnitudes in each window (Estrach, Szlam and LeCun, 2014).

    out(i) = (mean of |x|^p over W(i))^(1/p), where W(i) is the window at output position i: the norm of the window,
    divided by n^(1/p) for n values. p = 1 gives the mean of the magnitudes, p = 2 the root mean square.

    Shape: (C, *) or (N, C, *) to (..., *out); see `poolservice.specs.WindowSpec` for the output size. Without a
    `kernel_size`, each dimension of *out is 1.

    Range: nothing overflows or is lost to underflow, whatever p, up to magnitudes of 3.4e38, or for float64 of
    1.79e308. Between there and the largest number, rounding may give inf. Floating-point input keeps its dtype; integer
    input gives float32.

    NaN: a NaN gives NaN in the windows that hold it. An infinity of either sign gives inf. Either can change the
    rounding of the sample's other results.

    Args:
        p: the power, 0.05 to 1e6: one number, or one for each channel. Default: 2.0.
        kernel_size: window size in elements, at least 1: one int for all spatial dimensions, or one per dimension.
            Default: each whole plane.
        stride: distance between windows in elements, at least 1: one int, or one per dimension. Default:
            `kernel_size`.
        padding: elements added on both sides, 0 to half of `kernel_size`: one int, or one per dimension. They do not
            count. Default: 0.
        ceil_mode: round the output size up instead of down, so that a last, partly filled window counts. Default:
            False.

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: Estrach, Szlam and LeCun, "Signal Recovery from Pooling Representations", 2014.
    """

    operator: ClassVar[str] = "power_avg_pool"
    per_channel: ClassVar[tuple[str, ...]] = ("p",)
    p: float | Sequence[float] = 2.0
    kernel_size: Size | None = None
    stride: Size | None = None
    padding: Size = 0
    ceil_mode: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set_real("p", _LEAST_POWER, _LARGEST_POWER, per_channel=True)


class PowerAvgPool1d(_PowerAvgPool):
    """Power mean of the magnitudes in each window, over one dimension."""

    spatial_dims = 1


class PowerAvgPool2d(_PowerAvgPool):
    """Power mean of the magnitudes in each window, over two dimensions."""

    spatial_dims = 2


class PowerAvgPool3d(_PowerAvgPool):
    """Power mean of the magnitudes in each window, over three dimensions."""

    spatial_dims = 3
