"""What a service is asked to do: one immutable description a layer, and its rules.

The constructors refuse what no input could make right, in the words that the service uses.
"""

from poolservice.specs.adaptive import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveAvgPool3d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AdaptiveMaxPool3d,
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
from poolservice.specs.base import AdaptiveSpec, GlobalSpec, PoolSpec, Window, WindowSpec
from poolservice.specs.maxima import MaxPool1d, MaxPool2d, MaxPool3d
from poolservice.specs.means import (
    AvgPool1d,
    AvgPool2d,
    AvgPool3d,
    LPPool1d,
    LPPool2d,
    LPPool3d,
    MixedPool1d,
    MixedPool2d,
    MixedPool3d,
)
from poolservice.specs.messages import LAYERS, OPERATORS, from_message, to_message
from poolservice.specs.minima import MinPool1d, MinPool2d, MinPool3d

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
