"""One immutable description per layer: its parameters, their rules, and its message on the wire.

The constructors reject parameters that are wrong for every input, with the same error messages as the server.
"""

from poolservice.specs.adaptive_avg_pool import AdaptiveAvgPool1d, AdaptiveAvgPool2d, AdaptiveAvgPool3d
from poolservice.specs.adaptive_max_pool import AdaptiveMaxPool1d, AdaptiveMaxPool2d, AdaptiveMaxPool3d
from poolservice.specs.avg_pool import AvgPool1d, AvgPool2d, AvgPool3d
from poolservice.specs.base import AdaptiveSpec, GlobalSpec, PoolSpec, Window, WindowSpec
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
from poolservice.specs.messages import LAYERS, OPERATORS, from_message, to_message
from poolservice.specs.min_pool import MinPool1d, MinPool2d, MinPool3d
from poolservice.specs.mixed_pool import MixedPool1d, MixedPool2d, MixedPool3d

__all__ = [
    "LAYERS",
    "OPERATORS",
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d",
    "AdaptiveSpec",
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
    "GlobalSpec",
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
    "PoolSpec",
    "Window",
    "WindowSpec",
    "from_message",
    "to_message",
]
