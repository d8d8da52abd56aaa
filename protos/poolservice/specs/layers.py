"""All layers. `LAYERS`, the SDK and the command line take them from here."""

from poolservice.specs.ada_pool import (
    AdaPool1d,
    AdaPool2d,
    AdaPool3d,
    EDSCWPool1d,
    EDSCWPool2d,
    EDSCWPool3d,
    EMPool1d,
    EMPool2d,
    EMPool3d,
)
from poolservice.specs.adaptive_avg_pool import AdaptiveAvgPool1d, AdaptiveAvgPool2d, AdaptiveAvgPool3d
from poolservice.specs.adaptive_max_pool import AdaptiveMaxPool1d, AdaptiveMaxPool2d, AdaptiveMaxPool3d
from poolservice.specs.alpha_softmax_pool import AlphaSoftmaxPool1d, AlphaSoftmaxPool2d, AlphaSoftmaxPool3d
from poolservice.specs.avg_pool import AvgPool1d, AvgPool2d, AvgPool3d
from poolservice.specs.global_pool import (
    GlobalAvgPool1d,
    GlobalAvgPool2d,
    GlobalAvgPool3d,
    GlobalMaxPool1d,
    GlobalMaxPool2d,
    GlobalMaxPool3d,
    GlobalMinPool1d,
    GlobalMinPool2d,
    GlobalMinPool3d,
)
from poolservice.specs.lp_pool import LPPool1d, LPPool2d, LPPool3d
from poolservice.specs.lse_pool import LsePlus1d, LsePlus2d, LsePlus3d, LSEPool1d, LSEPool2d, LSEPool3d
from poolservice.specs.max_pool import MaxPool1d, MaxPool2d, MaxPool3d
from poolservice.specs.min_pool import MinPool1d, MinPool2d, MinPool3d
from poolservice.specs.mixed_pool import MixedPool1d, MixedPool2d, MixedPool3d
from poolservice.specs.power_means import (
    GeMPool1d,
    GeMPool2d,
    GeMPool3d,
    GGeMPool1d,
    GGeMPool2d,
    GGeMPool3d,
    PowerAvgPool1d,
    PowerAvgPool2d,
    PowerAvgPool3d,
)
from poolservice.specs.sequential import Sequential, Sequential1d, Sequential2d, Sequential3d
from poolservice.specs.soft_pool import SoftPool1d, SoftPool2d, SoftPool3d
from poolservice.specs.spatial_pyramid_pool import SpatialPyramidPool1d, SpatialPyramidPool2d, SpatialPyramidPool3d

__all__ = [
    "AdaPool1d",
    "AdaPool2d",
    "AdaPool3d",
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d",
    "AlphaSoftmaxPool1d",
    "AlphaSoftmaxPool2d",
    "AlphaSoftmaxPool3d",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "EDSCWPool1d",
    "EDSCWPool2d",
    "EDSCWPool3d",
    "EMPool1d",
    "EMPool2d",
    "EMPool3d",
    "GGeMPool1d",
    "GGeMPool2d",
    "GGeMPool3d",
    "GeMPool1d",
    "GeMPool2d",
    "GeMPool3d",
    "GlobalAvgPool1d",
    "GlobalAvgPool2d",
    "GlobalAvgPool3d",
    "GlobalMaxPool1d",
    "GlobalMaxPool2d",
    "GlobalMaxPool3d",
    "GlobalMinPool1d",
    "GlobalMinPool2d",
    "GlobalMinPool3d",
    "LPPool1d",
    "LPPool2d",
    "LPPool3d",
    "LSEPool1d",
    "LSEPool2d",
    "LSEPool3d",
    "LsePlus1d",
    "LsePlus2d",
    "LsePlus3d",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "MinPool1d",
    "MinPool2d",
    "MinPool3d",
    "MixedPool1d",
    "MixedPool2d",
    "MixedPool3d",
    "PowerAvgPool1d",
    "PowerAvgPool2d",
    "PowerAvgPool3d",
    "Sequential",
    "Sequential1d",
    "Sequential2d",
    "Sequential3d",
    "SoftPool1d",
    "SoftPool2d",
    "SoftPool3d",
    "SpatialPyramidPool1d",
    "SpatialPyramidPool2d",
    "SpatialPyramidPool3d",
]
