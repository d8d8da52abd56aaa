"""AdaptiveAvgMaxPool and AdaptiveCatAvgMaxPool, 1d to 3d: mean and maximum of each tile, averaged or concatenated."""

from dataclasses import dataclass
from typing import ClassVar, cast

from poolservice.specs.base import AdaptiveSpec, OutputSize, SampleSpec
from poolservice.specs.result_types import Values


@dataclass(frozen=True, repr=False)
class _AdaptiveAvgMaxPool(AdaptiveSpec[Values]):
    """Mean of the maximum and the mean of each of output_size windows that tile the input, as in timm.

    out(i) = (AdaptiveAvgPool(x)(i) + AdaptiveMaxPool(x)(i)) / 2; see `poolservice.specs.AdaptiveSpec` for the windows.

    Shape: (C, *) or (N, C, *) to (..., *output_size).

    Range: a sum beyond the range of the dtype that it is computed in, float64 for float64 and else float32, becomes
    infinite or NaN. Floating-point input keeps its dtype; integer input gives float32.

    NaN: a NaN gives NaN in the tiles that hold it. An infinity gives the same infinity, and infinities of both signs
    give NaN.

    Args:
        output_size: output size in elements, 0 or more: one int for all spatial dimensions, or one per dimension. None
            keeps the input's size. Default: 1.

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: timm.layers.AdaptiveAvgMaxPool2d, "avgmax" of timm.layers.SelectAdaptivePool2d.
    """

    operator: ClassVar[str] = "adaptive_avg_max_pool"
    output_size: OutputSize = 1


class AdaptiveAvgMaxPool1d(_AdaptiveAvgMaxPool):
    """Mean of the maximum and the mean of each of output_size windows, over one dimension."""

    spatial_dims = 1


class AdaptiveAvgMaxPool2d(_AdaptiveAvgMaxPool):
    """Mean of the maximum and the mean of each of output_size windows, over two dimensions."""

    spatial_dims = 2


class AdaptiveAvgMaxPool3d(_AdaptiveAvgMaxPool):
    """Mean of the maximum and the mean of each of output_size windows, over three dimensions."""

    spatial_dims = 3


@dataclass(frozen=True, repr=False)
class _AdaptiveCatAvgMaxPool(SampleSpec[Values]):
    """Means of output_size windows that tile the input, and then their maxima, as twice as many channels, as in timm.

    out(c) = AdaptiveAvgPool(x)(c) and out(C + c) = AdaptiveMaxPool(x)(c) for each channel c; see
    `poolservice.specs.AdaptiveSpec` for the windows.

    Shape: (C, *) or (N, C, *) to (2 C, *output_size) or (N, 2 C, *output_size).

    Range: a sum beyond the range of the dtype that it is computed in, float64 for float64 and else float32, becomes
    infinite or NaN. Floating-point input keeps its dtype; integer input gives float32.

    NaN: a NaN gives NaN in the tiles that hold it. An infinity gives the same infinity, unless the maximum leaves it
    out. Infinities of both signs give NaN as a mean.

    Args:
        output_size: output size in elements, 1 or more: one int for all spatial dimensions, or one per dimension. None
            keeps the input's size. Default: 1.

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: timm.layers.AdaptiveCatAvgMaxPool2d, "catavgmax" of timm.layers.SelectAdaptivePool2d.
    """

    operator: ClassVar[str] = "adaptive_cat_avg_max_pool"
    output_size: OutputSize = 1

    def __post_init__(self) -> None:
        self._set_sizes("output_size", minimum=1, allow_none=True)

    def sample_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return (2 C, *output_size)."""
        return (2 * shape[0], *self.output_size_in(shape[1:]))

    def output_size_in(self, spatial: tuple[int, ...]) -> tuple[int, ...]:
        """Return the output size for planes of a spatial shape."""
        sizes = cast(tuple[int | None, ...], self.output_size)
        return tuple(size if wanted is None else wanted for wanted, size in zip(sizes, spatial, strict=True))


class AdaptiveCatAvgMaxPool1d(_AdaptiveCatAvgMaxPool):
    """Means of output_size windows, and then their maxima, over one dimension."""

    spatial_dims = 1


class AdaptiveCatAvgMaxPool2d(_AdaptiveCatAvgMaxPool):
    """Means of output_size windows, and then their maxima, over two dimensions."""

    spatial_dims = 2


class AdaptiveCatAvgMaxPool3d(_AdaptiveCatAvgMaxPool):
    """Means of output_size windows, and then their maxima, over three dimensions."""

    spatial_dims = 3
