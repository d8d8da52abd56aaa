"""The channels that an image is decoded to."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

ColorMode = Literal["RGB", "GRAY", "RGBA"]

#: The number of channels of each mode.
CHANNELS: Mapping[ColorMode, int] = MappingProxyType({"GRAY": 1, "RGB": 3, "RGBA": 4})
