"""Specs of every layer beyond the classic ones, each with the shape of a sample that it pools.

The tests of every layer run over these. Each layer has at least one example, and each parameter a value other than its
default in one of them.
"""

from poolservice.specs import (
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
    PoolSpec,
    Sequential,
    SoftPool1d,
    SoftPool2d,
    SoftPool3d,
    SpatialPyramidPool1d,
    SpatialPyramidPool2d,
    SpatialPyramidPool3d,
)

#: Specs and shapes (C, *).
EXAMPLES: list[tuple[PoolSpec, tuple[int, ...]]] = [
    (Sequential([MaxPool1d(2), SoftPool1d()]), (3, 9)),
    (Sequential([MaxPool2d(2), SoftPool2d(2), SpatialPyramidPool2d((1, 2))]), (3, 9, 8)),
    (Sequential([MaxPool3d(2), SoftPool3d(2)]), (2, 5, 4, 6)),
    # Power and exponential means.
    (SoftPool1d(), (3, 9)),
    (SoftPool1d(3, 2, 1, ceil_mode=True), (3, 10)),
    (SoftPool2d((2, 3)), (3, 7, 9)),
    (SoftPool2d(9, 3, 4), (2, 20, 20)),
    (SoftPool3d(2), (2, 4, 5, 6)),
    # Order statistics and sampling.
    # Filters.
    # Regions of the plane.
    (SpatialPyramidPool1d(), (3, 9)),
    (SpatialPyramidPool2d((1, 3), mode="avg"), (3, 7, 9)),
    (SpatialPyramidPool3d((1, 2)), (2, 4, 5, 6)),
    # Second order.
    # With tensors of their own.
    # With learned weights.
]
