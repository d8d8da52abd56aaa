"""Specs of every layer beyond the classic ones, each with the shape of a sample that it pools.

The tests of every layer run over these. Each layer has at least one example, and each parameter a value other than its
default in one of them.
"""

import numpy as np
from tests.layers.head_folders import HEADS, PCA_OF_15

from poolservice.specs import (
    FractionalMaxPool2d,
    FractionalMaxPool3d,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
    MedianPool1d,
    MedianPool2d,
    MedianPool3d,
    OrdinalPool1d,
    OrdinalPool2d,
    OrdinalPool3d,
    PoolSpec,
    RankPool1d,
    RankPool2d,
    RankPool3d,
    S3Pool1d,
    S3Pool2d,
    S3Pool3d,
    AvgUnpool1d,
    AvgUnpool2d,
    AvgUnpool3d,
    MaskedAvgPool1d,
    MaskedAvgPool2d,
    MaskedAvgPool3d,
    MaskedGemPool1d,
    MaskedGemPool2d,
    MaskedGemPool3d,
    MaskedMaxPool1d,
    MaskedMaxPool2d,
    MaskedMaxPool3d,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
    MaxUnpool1d,
    MaxUnpool2d,
    MaxUnpool3d,
    PoolSpec,
    PSRoIAlign2d,
    PSRoIPool2d,
    RoIAlign2d,
    RoIPool2d,
    Sequential,
    SoftPool1d,
    SoftPool2d,
    SoftPool3d,
    SpatialPyramidPool1d,
    SpatialPyramidPool2d,
    SpatialPyramidPool3d,
    StochasticPool1d,
    StochasticPool2d,
    StochasticPool3d,
    TopKAvgPool1d,
    TopKAvgPool2d,
    TopKAvgPool3d,
    TrimmedMeanPool1d,
    TrimmedMeanPool2d,
    TrimmedMeanPool3d,
)
from poolservice_server.pool_heads.head import PoolHead2d

_SMALL_PCA = PoolHead2d("small", HEADS["pca"]._replace(shapes=PCA_OF_15).load())

# x1, y1, x2, y2; the last one has neither width nor height.
BOXES = [[0.5, 1.0, 6.0, 7.5], [-2.0, -1.5, 3.0, 12.0], [7.0, 3.0, 4.0, 9.0], [2.0, 2.0, 2.0, 2.0]]
MASK = np.arange(56).reshape(7, 8) % 4
MASK_3D = np.arange(60).reshape(3, 4, 5) % 3 / 2

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
    (MedianPool1d(), (3, 9)),
    (MedianPool2d((2, 3), 2, 1, ceil_mode=True), (3, 8, 9)),
    (MedianPool2d(3, 1, 1), (2, 60, 50)),
    (MedianPool3d(2), (2, 4, 5, 6)),
    (RankPool1d(3, 4), (3, 9)),
    (RankPool2d(6, 3, 2, 1, ceil_mode=True, largest=True), (3, 7, 8)),
    (RankPool3d(2), (2, 3, 4, 5)),
    (TopKAvgPool1d(2, 4, 3, 2), (3, 11)),
    (TopKAvgPool2d(3), (3, 7, 9)),
    (TopKAvgPool2d(3, 5, 2, 2, ceil_mode=True), (3, 8, 9)),
    (TopKAvgPool3d(4, 2, 1), (2, 4, 5, 6)),
    (TrimmedMeanPool1d(proportiontocut=0.2), (3, 9)),
    (TrimmedMeanPool2d(3, 2, 1, cut=2), (3, 90, 90)),
    (TrimmedMeanPool2d(4, 2, 2, ceil_mode=True, proportiontocut=0.25), (3, 7, 9)),
    (TrimmedMeanPool3d(2, cut=1), (2, 4, 5, 6)),
    (OrdinalPool1d([[0.5, 0.3, 0.2], [1, 0, 0]], 3, 2, 1), (2, 9)),
    (OrdinalPool2d([0.5, 0.25, 0.25, 0.0], 2, 2, 1, ceil_mode=True), (3, 60, 71)),
    (OrdinalPool2d(np.linspace(0.1, 0, 12)), (3, 3, 4)),
    (OrdinalPool3d([0.125] * 8, 2), (2, 4, 5, 6)),
    (StochasticPool1d(3, 2, 1, ceil_mode=True), (3, 10)),
    (StochasticPool2d(mode="sampled", seed=3), (3, 7, 9)),
    (StochasticPool2d(2), (3, 6, 9)),
    (StochasticPool3d(2, 1, mode="sampled"), (2, 4, 5, 6)),
    (S3Pool1d(2), (3, 9)),
    (S3Pool2d(2, 2, 4, seed=5), (3, 9, 12)),
    (S3Pool3d((1, 2, 2)), (2, 3, 4, 6)),
    (FractionalMaxPool2d(2, (3, 4)), (3, 7, 9)),
    (FractionalMaxPool2d(2, output_ratio=0.5, random_samples=[[[0.1, 0.9], [0.5, 0.3]]]), (2, 8, 9)),
    (FractionalMaxPool3d((1, 2, 2), output_ratio=(0.9, 0.5, 0.7), seed=7, return_indices=True), (2, 4, 5, 6)),
    # Filters.
    # Regions of the plane.
    (SpatialPyramidPool1d(), (3, 9)),
    (SpatialPyramidPool2d((1, 3), mode="avg"), (3, 7, 9)),
    (SpatialPyramidPool3d((1, 2)), (2, 4, 5, 6)),
    # Second order.
    # With tensors of their own.
    (RoIAlign2d(BOXES, 3), (2, 9, 8)),
    (RoIAlign2d(BOXES, (2, 3), 0.5, 2, aligned=True), (2, 9, 8)),
    (RoIPool2d(BOXES, (3, 2), 0.75), (2, 9, 8)),
    (PSRoIAlign2d(BOXES, (2, 3), 0.5, 2), (12, 9, 8)),
    (PSRoIPool2d(BOXES, (2, 3), 0.75), (12, 9, 8)),
    (MaskedAvgPool1d(lengths=4), (3, 9)),
    (MaskedAvgPool2d(MASK, 3, 2, 1, ceil_mode=True), (2, 7, 8)),
    (MaskedAvgPool3d(MASK_3D), (2, 3, 4, 5)),
    (MaskedMaxPool1d([0, 1, 1, 0, 1, 0, 0, 0, 1], 2, 2, 1, ceil_mode=True), (3, 9)),
    (MaskedMaxPool1d(lengths=[4]), (3, 9)),
    (MaskedMaxPool2d(MASK), (2, 7, 8)),
    (MaskedMaxPool3d(MASK_3D, 2), (2, 3, 4, 5)),
    (MaskedGemPool1d(p=2, eps=0.1, lengths=4), (3, 9)),
    (MaskedGemPool2d(MASK, 4, 1e-3, 3, 2, 1, ceil_mode=True), (2, 7, 8)),
    (MaskedGemPool3d(MASK_3D), (2, 3, 4, 5)),
    (MaxUnpool1d([[1, 2, 5], [0, 3, 4]], 2), (2, 3)),
    (MaxUnpool2d(np.arange(24).reshape(2, 3, 4) * 2, 3, 2, 1, (6, 8)), (2, 3, 4)),
    (MaxUnpool3d(np.arange(24).reshape(1, 2, 3, 4), 2), (1, 2, 3, 4)),
    (AvgUnpool1d(4), (2, 3)),
    (AvgUnpool2d(3, 2, 1, (6, 8)), (2, 3, 4)),
    (AvgUnpool3d(2), (1, 2, 3, 4)),
    # With learned weights.
    *((PoolHead2d(name, example.load()), example.sample) for name, example in HEADS.items()),
    (Sequential([SpatialPyramidPool2d((1, 2)), _SMALL_PCA]), (3, 8, 7)),
]
