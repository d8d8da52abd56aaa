"""All layers. `LAYERS`, the SDK and the command line take them from here."""

from poolservice.specs.adaptive_avg_pool import AdaptiveAvgPool1d, AdaptiveAvgPool2d, AdaptiveAvgPool3d
from poolservice.specs.adaptive_max_pool import AdaptiveMaxPool1d, AdaptiveMaxPool2d, AdaptiveMaxPool3d
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
from poolservice.specs.max_pool import MaxPool1d, MaxPool2d, MaxPool3d
from poolservice.specs.min_pool import MinPool1d, MinPool2d, MinPool3d
from poolservice.specs.mixed_pool import MixedPool1d, MixedPool2d, MixedPool3d
from poolservice.specs.sequential import Sequential, Sequential1d, Sequential2d, Sequential3d
from poolservice.specs.soft_pool import SoftPool1d, SoftPool2d, SoftPool3d
from poolservice.specs.spatial_pyramid_pool import SpatialPyramidPool1d, SpatialPyramidPool2d, SpatialPyramidPool3d

__all__ = [
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
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
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "MinPool1d",
    "MinPool2d",
    "MinPool3d",
    "MixedPool1d",
    "MixedPool2d",
    "MixedPool3d",
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
