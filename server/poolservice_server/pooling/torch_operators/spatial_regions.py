"""Operators that pool regions of the plane: grids, pyramids, strips and attention over positions."""

from typing import Any

import torch
import torch.nn.functional as F

_ADAPTIVE = {
    ("max", 1): F.adaptive_max_pool1d,
    ("max", 2): F.adaptive_max_pool2d,
    ("max", 3): F.adaptive_max_pool3d,
    ("avg", 1): F.adaptive_avg_pool1d,
    ("avg", 2): F.adaptive_avg_pool2d,
    ("avg", 3): F.adaptive_avg_pool3d,
}


def spatial_pyramid_pool(samples: torch.Tensor, spec: Any) -> torch.Tensor:
    """Maximum or mean of the tiles of several grids, one grid after the other: (N, C, *spatial) to (N, D).

    Source:
        He, Zhang, Ren and Sun, "Spatial Pyramid Pooling in Deep Convolutional Networks for Visual Recognition", 2014.
    """
    pool: Any = _ADAPTIVE[spec.mode, spec.spatial_dims]
    return torch.cat([pool(samples, level).flatten(1) for level in spec.levels], 1)
