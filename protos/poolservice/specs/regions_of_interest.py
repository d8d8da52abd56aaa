"""RoIAlign2d, RoIPool2d, PSRoIAlign2d and PSRoIPool2d: the bins of boxes in a feature map."""

from dataclasses import dataclass
from typing import ClassVar, cast

from poolservice.errors import InvalidRequest
from poolservice.specs.base import SampleSpec, Size
from poolservice.specs.result_types import Values
from poolservice.specs.tensor_parameter import TensorLike, TensorParameter
from poolservice.specs.validation import shown_number, shown_range

#: The limits of the number of boxes in a spec, of bins along a dimension, of the samples along a dimension of a bin,
#: and of a coordinate in the feature map.
MAX_BOXES = 2**16
MAX_BINS = 1024
MAX_SAMPLING_RATIO = 128
MAX_COORDINATE = 2.0**24

#: The sampling_ratio that stands for as many points as a bin has rows or columns.
ADAPTIVE = -1


@dataclass(frozen=True, repr=False)
class _Boxes(SampleSpec[Values]):
    """A spec with boxes in the feature map, each of which has the same number of bins."""

    boxes: TensorLike
    output_size: Size
    spatial_scale: float = 1.0

    def __post_init__(self) -> None:
        self._set_tensor("boxes", kind="float", shapes="(K, 4) or (N, K, 4)", dims_of_sample=2)
        boxes = cast(TensorParameter, self.boxes)
        if boxes.array.shape[-1] != 4:
            number = ", without the number of an image" if boxes.array.shape[-1] == 5 else ""
            raise InvalidRequest(
                f"must be x1, y1, x2, y2{number}: (K, 4) for K boxes in each sample, or (N, K, 4) for K boxes of their "
                f"own in each of N samples; got shape {boxes.array.shape}",
                field="boxes",
            )
        if boxes.array.size > 4 * MAX_BOXES:
            raise InvalidRequest(
                f"may have at most {MAX_BOXES} boxes in all; got {boxes.array.size // 4}", field="boxes"
            )
        self._set_sizes("output_size", minimum=1, maximum=MAX_BINS)
        self._set_real("spatial_scale", 2.0**-20, 2.0**20)
        lowest, highest = boxes.extremes
        if max(-float(lowest), float(highest)) * self.spatial_scale > MAX_COORDINATE:
            raise InvalidRequest(
                f"must lie within +-{MAX_COORDINATE:.0f} if multiplied by the spatial_scale, "
                f"{shown_number(self.spatial_scale)}; got {shown_range(lowest, highest)}",
                field="boxes",
            )

    def _set_sampling_ratio(self) -> None:
        self._set_integer("sampling_ratio", -(2**31), MAX_SAMPLING_RATIO)
        self._set("sampling_ratio", max(getattr(self, "sampling_ratio", 0), 0) or ADAPTIVE)

    @property
    def bins(self) -> tuple[int, int]:
        """The number of bins along each dimension of a box."""
        return cast(tuple[int, int], self.output_size)

    @property
    def count(self) -> int:
        """K, the number of boxes in a sample."""
        return int(cast(TensorParameter, self.boxes).array.shape[-2])

    def sample_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return (K, C, *output_size)."""
        return (self.count, shape[0], *self.bins)


@dataclass(frozen=True, repr=False)
class _BoxesOfChannels(_Boxes):
    """A spec with boxes whose bins have channels of their own."""

    def sample_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return (K, C / bins, *output_size).

        Raises:
            InvalidRequest: C is no multiple of the number of bins.
        """
        bins = self.bins[0] * self.bins[1]
        if shape[0] % bins:
            raise InvalidRequest(
                f"must divide the number of channels: {self.bins[0]} * {self.bins[1]} = {bins} bins each have channels "
                f"of their own; the input has {shape[0]} channels",
                field="output_size",
            )
        return (self.count, shape[0] // bins, *self.bins)


@dataclass(frozen=True, repr=False)
class _RoIAlign(_Boxes):
    """Mean of bilinear samples in each bin of boxes of a feature map, as torchvision.ops.roi_align.

    A box, multiplied by `spatial_scale`, is divided into bins, and a bin has a grid of points, the centers of its equal
    parts. out = sum over the points of the bilinear interpolation there / the number of points. A point outside -1 to H
    or -1 to W counts as 0; between 0 and -1, and above H - 1 or W - 1, the border continues. Positions are computed in
    float64.

    Shape: (C, H, W) to (K, C, *output_size), or (N, C, H, W) to (N, K, C, *output_size), for K boxes.

    Range: nothing overflows up to magnitudes of 3.4e38, or for float64 of 1.79e308. Between there and the largest
    number, rounding may give inf. Floating-point input keeps its dtype; integer input gives float32.

    NaN: a NaN gives NaN where it has a weight. An infinity gives the same infinity, and infinities of both signs give
    NaN.

    Args:
        boxes: x1, y1, x2, y2 of each box in the coordinates of the input before `spatial_scale`, of type float: (K, 4),
            the boxes in each sample, or (N, K, 4), boxes of their own in each of N samples. At most 65536 in all, from
            -2^24 to 2^24 in the feature map. They have no index of an image, which torchvision puts first. Required.
        output_size: number of bins, 1 to 1024: one int for both dimensions, or height and width. Required.
        spatial_scale: factor from the coordinates of the boxes to those of the feature map, 2^-20 to 2^20. Default:
            1.
        sampling_ratio: number of points along each dimension of a bin, at most 128. 0 or less: the bin's height and
            width, rounded up; a box without height or width then has no points and gives 0. Default: -1.
        aligned: shift the boxes by half a pixel, so that they are exact if the centers of pixels lie at 0.5. Without
            it, a box has at least 1 row and 1 column. Default: False.

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: torchvision.ops.roi_align; He, Gkioxari, Dollar and Girshick, "Mask R-CNN", 2017.
    """

    operator: ClassVar[str] = "roi_align"
    sampling_ratio: int = ADAPTIVE
    aligned: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set_sampling_ratio()
        self._set_flag("aligned")


class RoIAlign2d(_RoIAlign):
    """Mean of bilinear samples in each bin of boxes of a feature map."""

    spatial_dims = 2


@dataclass(frozen=True, repr=False)
class _RoIPool(_Boxes):
    """Maximum of each bin of boxes of a feature map, rounded to whole pixels, as torchvision.ops.roi_pool.

    A box, multiplied by `spatial_scale` and rounded, half away from 0, has h = max(y2 - y1 + 1, 1) rows. Bin i of s has
    the rows y1 + floor(i * h / s) to before y1 + ceil((i + 1) * h / s), as far as they are in the feature map; columns
    are alike. Boxes are scaled in float64 and divided exactly. torchvision computes in the dtype of the values, so that
    its last bin can have a row too many, as for h = 57 and s = 7 in float32. out = max of x over the bin; an empty bin
    gives 0.

    Shape: (C, H, W) to (K, C, *output_size), or (N, C, H, W) to (N, K, C, *output_size), for K boxes.

    Range: each value of the result is a value of the input, or 0. The result has the input's dtype.

    NaN: a NaN gives NaN in the bins that hold it, where torchvision ignores it. An infinity is a value like any other.

    Args:
        boxes: x1, y1, x2, y2 of each box in the coordinates of the input before `spatial_scale`, of type float: (K, 4),
            the boxes in each sample, or (N, K, 4), boxes of their own in each of N samples. At most 65536 in all, from
            -2^24 to 2^24 in the feature map. They have no index of an image, which torchvision puts first. Required.
        output_size: number of bins, 1 to 1024: one int for both dimensions, or height and width. Required.
        spatial_scale: factor from the coordinates of the boxes to those of the feature map, 2^-20 to 2^20. Default:
            1.

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: torchvision.ops.roi_pool; Girshick, "Fast R-CNN", 2015.
    """

    operator: ClassVar[str] = "roi_pool"
    keeps_dtype: ClassVar[bool] = True


class RoIPool2d(_RoIPool):
    """Maximum of each bin of boxes of a feature map, rounded to whole pixels."""

    spatial_dims = 2


@dataclass(frozen=True, repr=False)
class _PSRoIAlign(_BoxesOfChannels):
    """RoIAlign in which each bin has channels of its own, as torchvision.ops.ps_roi_align.

    out[k, c, i, j] = RoIAlign2d(x)[k, (c * bins_h + i) * bins_w + j, i, j] with `aligned`: bin (i, j) of box k and
    channel c of the result pools a channel of its own. A box without height or width gives 0 if its points are
    adaptive, where torchvision gives NaN.

    Shape: (C, H, W) to (K, C / bins, *output_size), or (N, C, H, W) to (N, K, C / bins, *output_size), for K boxes,
    where bins is the product of `output_size`.

    Range: nothing overflows up to magnitudes of 3.4e38, or for float64 of 1.79e308. Between there and the largest
    number, rounding may give inf. Floating-point input keeps its dtype; integer input gives float32.

    NaN: a NaN gives NaN where it has a weight. An infinity gives the same infinity, and infinities of both signs give
    NaN.

    Args:
        boxes: x1, y1, x2, y2 of each box in the coordinates of the input before `spatial_scale`, of type float: (K, 4),
            the boxes in each sample, or (N, K, 4), boxes of their own in each of N samples. At most 65536 in all, from
            -2^24 to 2^24 in the feature map. They have no index of an image, which torchvision puts first. Required.
        output_size: number of bins, 1 to 1024: one int for both dimensions, or height and width. Required.
        spatial_scale: factor from the coordinates of the boxes to those of the feature map, 2^-20 to 2^20. Default:
            1.
        sampling_ratio: number of points along each dimension of a bin, at most 128. 0 or less: the bin's height and
            width, rounded up. Default: -1.

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: torchvision.ops.ps_roi_align; Li et al., "Light-Head R-CNN", 2017.
    """

    operator: ClassVar[str] = "ps_roi_align"
    sampling_ratio: int = ADAPTIVE

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set_sampling_ratio()


class PSRoIAlign2d(_PSRoIAlign):
    """RoIAlign in which each bin has channels of its own."""

    spatial_dims = 2


@dataclass(frozen=True, repr=False)
class _PSRoIPool(_BoxesOfChannels):
    """Mean of each bin of boxes, in which each bin has channels of its own, as torchvision.ops.ps_roi_pool.

    A box, multiplied by `spatial_scale` and rounded, half away from 0, has h = max(y2 - y1, 1) rows. Bin i of s has the
    rows y1 + floor(i * h / s) to before y1 + ceil((i + 1) * h / s), each limited to 0 to H - 1, so that, as in
    torchvision, no bin has the last row or column. Boxes are scaled in float64 and divided exactly. torchvision
    computes in the dtype of the values, so that its last bin can have a row too many, as for h = 57 and s = 7 in
    float32. out[k, c, i, j] = mean of channel (c * bins_h + i) * bins_w + j over bin (i, j) of box k; an empty bin
    gives 0.

    Shape: (C, H, W) to (K, C / bins, *output_size), or (N, C, H, W) to (N, K, C / bins, *output_size), for K boxes,
    where bins is the product of `output_size`.

    Range: a sum beyond the range of the dtype that it is computed in, float64 for float64 and else float32, becomes
    infinite or NaN. Floating-point input keeps its dtype; integer input gives float32.

    NaN: a NaN gives NaN in the bins that hold it. An infinity gives the same infinity, and infinities of both signs
    give NaN.

    Args:
        boxes: x1, y1, x2, y2 of each box in the coordinates of the input before `spatial_scale`, of type float: (K, 4),
            the boxes in each sample, or (N, K, 4), boxes of their own in each of N samples. At most 65536 in all, from
            -2^24 to 2^24 in the feature map. They have no index of an image, which torchvision puts first. Required.
        output_size: number of bins, 1 to 1024: one int for both dimensions, or height and width. Required.
        spatial_scale: factor from the coordinates of the boxes to those of the feature map, 2^-20 to 2^20. Default:
            1.

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: torchvision.ops.ps_roi_pool; Dai, Li, He and Sun, "R-FCN: Object Detection via Region-based Fully
    Convolutional Networks", 2016.
    """

    operator: ClassVar[str] = "ps_roi_pool"


class PSRoIPool2d(_PSRoIPool):
    """Mean of each bin of boxes, in which each bin has channels of its own."""

    spatial_dims = 2
