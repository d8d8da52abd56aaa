"""The table of operators: what the server knows of each besides its spec and its function.

The function of an operator has its name and is in one of the modules of `pooling.torch_operators`. Nothing here imports
torch, because request validation reads this table.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from poolservice.specs import LAYERS, PoolSpec
from poolservice_server.operator_costs import (
    filters,
    order_statistics,
    regions,
    sampling,
    second_order,
    tensor_operators,
    window_means,
)
from poolservice_server.operator_costs.cost import Cost, Sample, per_value


def _head_cost(spec: Any, sample: Sample) -> tuple[float, float]:
    cost: tuple[float, float] = spec.head.cost(sample)
    return cost


class Operator(NamedTuple):
    """What the server knows of an operator.

    Attributes:
        cost: estimates what pooling a sample costs; None if `stage_cost` has an estimate of its own. That of lp_pool is
            for its norm.
        commutes_with_scale: True if pooling the integers of an image and dividing the result equals dividing first.
            The server then pools images as bytes.
        stacks: True if the function gives the same bits for any number of planes, so that on the CPU the samples of a
            batch may be pooled together. Otherwise they are pooled one by one.
    """

    cost: Cost | None = None
    commutes_with_scale: bool = False
    stacks: bool = False


_CLASSIC = Operator(commutes_with_scale=True, stacks=True)

#: By the name of the operator in the contract.
OPERATORS: Mapping[str, Operator] = MappingProxyType(
    {
        "max_pool": _CLASSIC,
        "min_pool": _CLASSIC,
        "avg_pool": _CLASSIC,
        "lp_pool": _CLASSIC._replace(commutes_with_scale=False, cost=window_means.power_mean),
        "mixed_pool": _CLASSIC,
        "adaptive_max_pool": _CLASSIC,
        "adaptive_avg_pool": _CLASSIC,
        "global_max_pool": _CLASSIC,
        "global_min_pool": _CLASSIC,
        "global_avg_pool": _CLASSIC,
        # Its layers have estimates of their own.
        "sequential": Operator(),
        # Power and exponential means.
        "soft_pool": Operator(window_means.softmax_mean),
        "gem_pool": Operator(window_means.power_mean),
        "ggem_pool": Operator(window_means.power_mean),
        "power_avg_pool": Operator(window_means.power_mean),
        "lse_pool": Operator(window_means.log_mean_exp),
        "lse_plus": Operator(window_means.log_mean_exp),
        "alpha_softmax_pool": Operator(window_means.softmax_mean),
        "em_pool": Operator(window_means.softmax_mean),
        "edscw_pool": Operator(window_means.similarity_mean),
        "ada_pool": Operator(window_means.ada_mean),
        # Order statistics and sampling.
        "median_pool": Operator(order_statistics.per_sorted(3)),
        "rank_pool": Operator(order_statistics.rank),
        "top_k_avg_pool": Operator(order_statistics.top_k_mean),
        "trimmed_mean_pool": Operator(order_statistics.trimmed_mean),
        "ordinal_pool": Operator(order_statistics.per_sorted(3)),
        "stochastic_pool": Operator(sampling.stochastic),
        "s3_pool": Operator(sampling.s3),
        "fractional_max_pool": Operator(sampling.fractional_max),
        # Filters.
        "blur_pool": Operator(filters.blur),
        "max_blur_pool": Operator(filters.max_blur),
        "wavelet_pool": Operator(filters.wavelet),
        "spectral_pool": Operator(filters.spectral),
        # Regions of the plane.
        "spatial_pyramid_pool": Operator(regions.spatial_pyramid),
        "mac": Operator(regions.per_sample(10_000, 0.1)),
        "rmac": Operator(regions.region_grid),
        "spoc": Operator(regions.channel_sums),
        "crow": Operator(regions.channels_and_positions),
        "scda": Operator(regions.largest_region),
        "strip_pool": Operator(regions.per_sample(10_000, 0.3)),
        "coordinate_pool": Operator(regions.per_sample(10_000, 0.25)),
        "corner_pool": Operator(regions.corner),
        "pool_former_pool": Operator(regions.box_means),
        "adaptive_avg_max_pool": Operator(regions.tiles),
        "adaptive_cat_avg_max_pool": Operator(regions.tiles),
        "gated_max_avg_pool": Operator(regions.gated_windows),
        # Second order.
        "covariance_pool": Operator(second_order.covariance),
        "bilinear_pool": Operator(second_order.bilinear),
        "compact_bilinear_pool": Operator(second_order.compact_bilinear),
        # With tensors of their own.
        "roi_align": Operator(tensor_operators.box_bins),
        "roi_pool": Operator(tensor_operators.box_bins),
        "ps_roi_align": Operator(tensor_operators.box_bins),
        "ps_roi_pool": Operator(tensor_operators.box_bins),
        "masked_avg_pool": Operator(tensor_operators.masked_mean),
        "masked_max_pool": Operator(tensor_operators.masked_maximum),
        "masked_gem_pool": Operator(tensor_operators.masked_power_mean),
        "max_unpool": Operator(per_value(0.2, 1)),
        "avg_unpool": Operator(tensor_operators.average_unpooling),
        # With learned weights.
        "pool_head": Operator(_head_cost),
    }
)

#: The operators whose results are values of the input, and therefore have its dtype.
ORDER_STATISTICS = frozenset(layer.operator for layer in LAYERS.values() if layer.keeps_dtype)

_FLOAT32 = np.dtype(np.float32)


def stacks(spec: PoolSpec) -> bool:
    """Return True if the function of the spec gives the same bits for any number of planes; see `Operator`."""
    # The norm has a function of its own, which chooses between formulas by the values of all planes.
    return OPERATORS[spec.operator].stacks and not getattr(spec, "absolute", False)


def needs_channels(spec: PoolSpec) -> bool:
    """Return True if planes alone do not say how to pool them: where a sample begins matters, too."""
    return spec.differs_by_channel or not stacks(spec)
