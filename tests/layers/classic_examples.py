"""Specs of the classic layers, which `examples.py` leaves out, and the list of the specs of all layers."""

from tests.layers.examples import EXAMPLES
from tests.layers.head_folders import POOL_HEADS

from poolservice.specs import (
    LAYERS,
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveAvgPool3d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AdaptiveMaxPool3d,
    AvgPool1d,
    AvgPool2d,
    AvgPool3d,
    GlobalAvgPool1d,
    GlobalAvgPool2d,
    GlobalAvgPool3d,
    GlobalMaxPool1d,
    GlobalMaxPool2d,
    GlobalMaxPool3d,
    GlobalMinPool1d,
    GlobalMinPool2d,
    GlobalMinPool3d,
    LPPool1d,
    LPPool2d,
    LPPool3d,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
    MinPool1d,
    MinPool2d,
    MinPool3d,
    MixedPool1d,
    MixedPool2d,
    MixedPool3d,
    PoolSpec,
)

#: Specs and shapes (C, *). The kernels differ by the size of the window.
CLASSIC: list[tuple[PoolSpec, tuple[int, ...]]] = [
    (MaxPool1d(3, 2, 1), (2, 9)),
    (MaxPool2d(3, 2, 1, dilation=2, ceil_mode=True), (2, 9, 10)),
    (MaxPool2d(9, 2), (2, 30, 31)),
    (MaxPool3d(2), (2, 4, 5, 6)),
    (MinPool1d(3, 2, 1), (2, 9)),
    (MinPool2d(9, 2), (2, 30, 31)),
    (MinPool3d(2), (2, 4, 5, 6)),
    (AvgPool1d(3, 2, 1), (2, 9)),
    (AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), (2, 9, 10)),
    (AvgPool2d(2, divisor_override=-3), (2, 8, 8)),
    (AvgPool2d(9, 1), (2, 60, 61)),
    (AvgPool3d(2), (2, 4, 5, 6)),
    (LPPool1d(2, 3), (2, 9)),
    (LPPool2d(2, 9, 2), (2, 30, 31)),
    (LPPool2d(3, 2), (2, 8, 9)),
    (LPPool2d(1, 2), (2, 8, 9)),
    (LPPool2d(0.5, 2), (2, 8, 9)),
    (LPPool2d(3, 2, absolute=True), (2, 8, 9)),
    (LPPool2d(float("inf"), 2, absolute=True), (2, 8, 9)),
    (LPPool3d(2, 2), (2, 4, 5, 6)),
    (AdaptiveAvgPool1d(4), (2, 9)),
    (AdaptiveAvgPool2d((3, None)), (2, 9, 10)),
    (AdaptiveAvgPool2d(7), (2, 64, 64)),
    (AdaptiveAvgPool3d(2), (2, 4, 5, 6)),
    (AdaptiveMaxPool1d(4), (2, 9)),
    (AdaptiveMaxPool2d((3, None)), (2, 9, 10)),
    (AdaptiveMaxPool3d(2), (2, 4, 5, 6)),
    *((layer(), (2, 30)) for layer in (GlobalAvgPool1d, GlobalMaxPool1d, GlobalMinPool1d)),
    *((layer(), (2, 9, 10)) for layer in (GlobalAvgPool2d, GlobalMaxPool2d, GlobalMinPool2d)),
    *((layer(), (2, 4, 5, 6)) for layer in (GlobalAvgPool3d, GlobalMaxPool3d, GlobalMinPool3d)),
    (MixedPool1d(3, 2, 1), (2, 9)),
    (MixedPool2d(3, 2, 1, alpha=0.3), (2, 9, 10)),
    (MixedPool2d(2, alpha_per_channel=(0.0, 1.0)), (2, 9, 10)),
    (MixedPool3d(2), (2, 4, 5, 6)),
]
#: The specs of all layers; pool heads have their weights.
ALL = CLASSIC + [(POOL_HEADS.resolve(spec), shape) for spec, shape in EXAMPLES]


def layer_of(spec: PoolSpec) -> type[PoolSpec]:
    """Return the layer of a spec; of a pool head with its weights the layer that names it."""
    return LAYERS[spec.operator, spec.spatial_dims]
