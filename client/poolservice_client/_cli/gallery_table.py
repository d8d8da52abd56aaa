"""The table of the gallery: for each operator its group, and the layers that show it.

A rule can derive neither the groups nor the examples. Specs and GetServerInfo have no groups, and the client is
installed without `server/LAYERS.md`. An example needs parameters that make its result visible, and these depend on the
size of the sample. Boxes, masks, weights and indices have no defaults. A test fails if an operator has no row.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from poolservice import specs as layers
from poolservice.specs import PoolSpec
from poolservice_client._server_info import HeadInfo


class Sample(NamedTuple):
    """The input of the layers: the pixels of a photograph, or a feature map.

    Attributes:
        channels: the number of channels.
        height: the number of rows.
        width: the number of columns.
        heads: the server's pool heads.
    """

    channels: int
    height: int
    width: int
    heads: Sequence[HeadInfo] = ()

    @property
    def kernel(self) -> int:
        """The side of the windows. The longer side of a large sample has about 64 windows."""
        return max(2, round(max(self.height, self.width) / 64))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    def reduced(self) -> tuple[int, int]:
        """Return the number of windows of each dimension."""
        return max(1, self.height // self.kernel), max(1, self.width // self.kernel)

    def boxes(self) -> "np.ndarray[Any, Any]":
        """Return two boxes, x1, y1, x2, y2: the upper middle, and the lower right quarter."""
        shares = np.array([[0.25, 0.0, 0.75, 0.5], [0.5, 0.5, 1.0, 1.0]])
        return np.round(shares * [self.width, self.height, self.width, self.height])

    def ellipse(self) -> "np.ndarray[Any, Any]":
        """Return a mask (H, W): 1 within the largest ellipse, 0 outside."""
        rows, columns = (np.linspace(-1, 1, size) if size > 1 else np.zeros(1) for size in self.size)
        return (rows[:, None] ** 2 + columns**2 <= 1).astype(np.uint8)

    def bins(self) -> tuple[int, int]:
        """Return the numbers of bins that have channels of their own: as many as divide the channels, at most 7."""
        side = next(side for side in range(7, 0, -1) if self.channels % side**2 == 0)
        rows = next(rows for rows in range(7, 0, -1) if self.channels % rows == 0)
        return (side, side) if side > 1 else (rows, 1)

    def fitting_heads(self) -> list[HeadInfo]:
        """Return the pool heads that take the sample, or a vector of its channels."""
        return [
            head
            for head in self.heads
            if head.state == "SERVING"
            and head.channels == self.channels
            and (head.spatial_shape in {(), self.size} or _takes_vectors(head))
        ]


class Unpooling(NamedTuple):
    """A layer that pools the result of another layer.

    Attributes:
        first: the layer that is applied to the sample.
        then: returns the layer that is applied to the result, which gets the indices if `first` returns some.
    """

    first: PoolSpec
    then: Callable[[Any], PoolSpec]


#: Returns a layer for a sample. It raises InvalidRequest if the layer is not defined for it.
Example: TypeAlias = Callable[[Sample], PoolSpec | Unpooling]


class Entry(NamedTuple):
    """An operator in the gallery.

    Attributes:
        group: the heading under which it stands.
        examples: return the layers that show it. pool_head has none, because the server names its heads.
    """

    group: str
    examples: tuple[Example, ...]


CLASSIC = "Classic layers"
MEANS = "Power and exponential means"
ORDER = "Order statistics and sampling"
FILTERS = "Filters"
REGIONS = "Regions of the plane"
SECOND_ORDER = "Second order"
TENSORS = "With tensors of their own"
HEADS = "With learned weights"
SEQUENCES = "Sequences"


def _entry(group: str, *examples: Example) -> Entry:
    return Entry(group, examples)


def _adaptive_size(sample: Sample) -> tuple[int, int]:
    return min(16, math.ceil(sample.height / 2)), min(16, math.ceil(sample.width / 2))


def _ordinal_weights(sample: Sample) -> "np.ndarray[Any, Any]":
    weights: np.ndarray[Any, Any] = np.arange(sample.kernel**2, 0, -1).astype(np.float64)
    return np.asarray(weights / weights.sum())


def _gate(sample: Sample) -> "np.ndarray[Any, Any]":
    return np.linspace(-1, 1, sample.kernel**2, dtype=np.float32).reshape(sample.kernel, sample.kernel)


def _filter_size(sample: Sample) -> int:
    return min(7, 2 * sample.kernel - 1)


def _levels(sample: Sample) -> int:
    return round(math.log2(sample.kernel))


def _rank(sample: Sample) -> int:
    return max(1, sample.kernel**2 // 10)


def _bin_count(sample: Sample) -> int:
    return max(1, min(64, sample.height // 2, sample.width // 2))


def _max_unpooling(sample: Sample) -> Unpooling:
    # With larger windows, nearly all values of the result would be 0.
    return Unpooling(
        layers.MaxPool2d(2, return_indices=True),
        lambda indices: layers.MaxUnpool2d(indices, 2, output_size=sample.size),
    )


def _avg_unpooling(sample: Sample) -> Unpooling:
    return Unpooling(layers.AvgPool2d(2), lambda _: layers.AvgUnpool2d(2, output_size=sample.size))


def _takes_vectors(head: HeadInfo) -> bool:
    return head.kind == "pca_whitening"


def of_head(head: HeadInfo) -> Example:
    """Return the example of a pool head; whitening follows R-MAC, as published."""
    pooled = layers.PoolHead2d(head.name)
    return lambda _: layers.Sequential([layers.RMAC2d(), pooled]) if _takes_vectors(head) else pooled


#: Every operator of the contract, in the order of the gallery.
GALLERY: Mapping[str, Entry] = MappingProxyType(
    {
        "max_pool": _entry(CLASSIC, lambda s: layers.MaxPool2d(s.kernel)),
        "avg_pool": _entry(CLASSIC, lambda s: layers.AvgPool2d(s.kernel)),
        "min_pool": _entry(CLASSIC, lambda s: layers.MinPool2d(s.kernel)),
        "lp_pool": _entry(CLASSIC, lambda s: layers.LPPool2d(2, s.kernel, absolute=True)),
        "mixed_pool": _entry(CLASSIC, lambda s: layers.MixedPool2d(s.kernel)),
        "adaptive_max_pool": _entry(CLASSIC, lambda s: layers.AdaptiveMaxPool2d(_adaptive_size(s))),
        "adaptive_avg_pool": _entry(CLASSIC, lambda s: layers.AdaptiveAvgPool2d(_adaptive_size(s))),
        "global_max_pool": _entry(CLASSIC, lambda _: layers.GlobalMaxPool2d()),
        "global_avg_pool": _entry(CLASSIC, lambda _: layers.GlobalAvgPool2d()),
        "global_min_pool": _entry(CLASSIC, lambda _: layers.GlobalMinPool2d()),
        "soft_pool": _entry(MEANS, lambda s: layers.SoftPool2d(s.kernel)),
        "gem_pool": _entry(MEANS, lambda s: layers.GeMPool2d(3, s.kernel), lambda _: layers.GeMPool2d()),
        "ggem_pool": _entry(MEANS, lambda s: layers.GGeMPool2d((6,), s.kernel)),
        "power_avg_pool": _entry(MEANS, lambda s: layers.PowerAvgPool2d(2, s.kernel)),
        "lse_pool": _entry(MEANS, lambda s: layers.LSEPool2d(10, s.kernel)),
        "lse_plus": _entry(MEANS, lambda s: layers.LsePlus2d(10, s.kernel)),
        "alpha_softmax_pool": _entry(
            MEANS,
            lambda s: layers.AlphaSoftmaxPool2d(20, s.kernel),
            lambda s: layers.AlphaSoftmaxPool2d(-20, s.kernel),
        ),
        "em_pool": _entry(MEANS, lambda s: layers.EMPool2d(s.kernel)),
        "edscw_pool": _entry(MEANS, lambda s: layers.EDSCWPool2d(s.kernel)),
        "ada_pool": _entry(MEANS, lambda s: layers.AdaPool2d(s.kernel)),
        "median_pool": _entry(ORDER, lambda s: layers.MedianPool2d(s.kernel)),
        "rank_pool": _entry(ORDER, lambda s: layers.RankPool2d(_rank(s), s.kernel)),
        "top_k_avg_pool": _entry(ORDER, lambda s: layers.TopKAvgPool2d(_rank(s), s.kernel)),
        "trimmed_mean_pool": _entry(ORDER, lambda s: layers.TrimmedMeanPool2d(s.kernel, proportiontocut=0.25)),
        "ordinal_pool": _entry(ORDER, lambda s: layers.OrdinalPool2d(_ordinal_weights(s), s.kernel)),
        "stochastic_pool": _entry(
            ORDER,
            lambda s: layers.StochasticPool2d(s.kernel),
            lambda s: layers.StochasticPool2d(s.kernel, mode="sampled"),
        ),
        "s3_pool": _entry(ORDER, lambda s: layers.S3Pool2d(s.kernel)),
        "fractional_max_pool": _entry(ORDER, lambda s: layers.FractionalMaxPool2d(s.kernel, s.reduced())),
        "blur_pool": _entry(FILTERS, lambda s: layers.BlurPool2d(_filter_size(s), s.kernel)),
        "max_blur_pool": _entry(FILTERS, lambda s: layers.MaxBlurPool2d(_filter_size(s), s.kernel)),
        "wavelet_pool": _entry(FILTERS, lambda s: layers.WaveletPool2d(_levels(s), norm="mean")),
        "spectral_pool": _entry(FILTERS, lambda s: layers.SpectralPool2d(s.reduced(), norm="mean")),
        "spatial_pyramid_pool": _entry(REGIONS, lambda _: layers.SpatialPyramidPool2d((1, 2))),
        "mac": _entry(REGIONS, lambda _: layers.MAC2d()),
        "rmac": _entry(REGIONS, lambda _: layers.RMAC2d()),
        "spoc": _entry(REGIONS, lambda _: layers.SPoC2d(center_prior=True)),
        "crow": _entry(REGIONS, lambda _: layers.CroW2d()),
        "scda": _entry(REGIONS, lambda _: layers.SCDA2d()),
        "strip_pool": _entry(REGIONS, lambda _: layers.StripPool2d()),
        "coordinate_pool": _entry(REGIONS, lambda _: layers.CoordinatePool2d()),
        "corner_pool": _entry(
            REGIONS, lambda _: layers.CornerPool2d("top_left"), lambda _: layers.CornerPool2d("bottom_right")
        ),
        "pool_former_pool": _entry(REGIONS, lambda s: layers.PoolFormerPool2d(s.kernel | 1)),
        "adaptive_avg_max_pool": _entry(REGIONS, lambda s: layers.AdaptiveAvgMaxPool2d(_adaptive_size(s))),
        "adaptive_cat_avg_max_pool": _entry(REGIONS, lambda s: layers.AdaptiveCatAvgMaxPool2d(_adaptive_size(s))),
        "gated_max_avg_pool": _entry(REGIONS, lambda s: layers.GatedMaxAvgPool2d(s.kernel, _gate(s))),
        "covariance_pool": _entry(SECOND_ORDER, lambda _: layers.CovariancePool2d()),
        "bilinear_pool": _entry(SECOND_ORDER, lambda _: layers.BilinearPool2d()),
        "compact_bilinear_pool": _entry(SECOND_ORDER, lambda _: layers.CompactBilinearPool2d(64)),
        "roi_align": _entry(TENSORS, lambda s: layers.RoIAlign2d(s.boxes(), _bin_count(s), aligned=True)),
        "roi_pool": _entry(TENSORS, lambda s: layers.RoIPool2d(s.boxes(), _bin_count(s))),
        "ps_roi_align": _entry(TENSORS, lambda s: layers.PSRoIAlign2d(s.boxes(), s.bins())),
        "ps_roi_pool": _entry(TENSORS, lambda s: layers.PSRoIPool2d(s.boxes(), s.bins())),
        "masked_avg_pool": _entry(TENSORS, lambda s: layers.MaskedAvgPool2d(s.ellipse(), s.kernel)),
        "masked_max_pool": _entry(TENSORS, lambda s: layers.MaskedMaxPool2d(s.ellipse(), s.kernel)),
        "masked_gem_pool": _entry(TENSORS, lambda s: layers.MaskedGeMPool2d(s.ellipse(), kernel_size=s.kernel)),
        "max_unpool": _entry(TENSORS, _max_unpooling),
        "avg_unpool": _entry(TENSORS, _avg_unpooling),
        "pool_head": _entry(HEADS),
        "sequential": _entry(
            SEQUENCES,
            lambda s: layers.Sequential([layers.MaxPool2d(2), layers.GeMPool2d(3, max(2, s.kernel // 2))]),
            lambda s: layers.Sequential([layers.MedianPool2d(s.kernel), layers.SpatialPyramidPool2d((1, 2))]),
        ),
    }
)
