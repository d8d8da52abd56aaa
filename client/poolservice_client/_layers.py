"""Which layers always give one array, for the types of what comes back."""

from typing import Any, TypeAlias

from numpy.typing import NDArray

from poolservice.specs import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveAvgPool3d,
    AvgPool1d,
    AvgPool2d,
    AvgPool3d,
    GlobalSpec,
    LPPool1d,
    LPPool2d,
    LPPool3d,
    MixedPool1d,
    MixedPool2d,
    MixedPool3d,
)

#: What one of them gives. Other layers give this, or a pair of it with `return_indices`.
Array: TypeAlias = NDArray[Any]

#: The layers without `return_indices`.
PlainLayer: TypeAlias = (
    GlobalSpec
    | AvgPool1d
    | AvgPool2d
    | AvgPool3d
    | LPPool1d
    | LPPool2d
    | LPPool3d
    | MixedPool1d
    | MixedPool2d
    | MixedPool3d
    | AdaptiveAvgPool1d
    | AdaptiveAvgPool2d
    | AdaptiveAvgPool3d
)
