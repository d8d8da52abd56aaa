"""Operators that pool rows and columns, whole or from each position on."""

from typing import Any

import torch

# The dimension of (P, H, W) along which each maximum runs, and whether it runs towards the end.
_EDGES = {"top": (1, True), "bottom": (1, False), "left": (2, True), "right": (2, False)}


def strip_pool(samples: torch.Tensor, spec: Any) -> torch.Tensor:
    """Sum of the mean of the row and the mean of the column of each position: (N, C, H, W) to (N, C, H, W).

    Source:
        Hou, Zhang, Cheng and Feng, "Strip Pooling: Rethinking Spatial Pooling for Scene Parsing", 2020.
    """
    return samples.mean(3, keepdim=True) + samples.mean(2, keepdim=True)


def coordinate_pool(samples: torch.Tensor, spec: Any) -> torch.Tensor:
    """Means of the rows and then means of the columns: (N, C, H, W) to (N, C, H + W, 1).

    Source:
        Hou, Zhou and Feng, "Coordinate Attention for Efficient Mobile Network Design", 2021.
    """
    return torch.cat((samples.mean(3), samples.mean(2)), 2).unsqueeze(3)


def corner_pool(planes: torch.Tensor, spec: Any) -> torch.Tensor:
    """Maximum from each position to an edge, or the sum of two of them: (P, H, W) to (P, H, W).

    Source:
        Law and Deng, "CornerNet: Detecting Objects as Paired Keypoints", 2018.
    """
    maxima = [_running_max(planes, *_EDGES[edge]) for edge in spec.mode.split("_")]
    return maxima[0] if len(maxima) == 1 else maxima[0] + maxima[1]


def _running_max(planes: torch.Tensor, dim: int, towards_end: bool) -> torch.Tensor:
    """Return the maximum from each position to the end of a dimension, or to its start."""
    size = planes.shape[dim]
    reach = 1
    # Each round doubles the number of values that a maximum covers.
    while reach < size:
        early, late = planes.narrow(dim, 0, size - reach), planes.narrow(dim, reach, size - reach)
        planes = planes.clone()
        torch.maximum(early, late, out=planes.narrow(dim, 0 if towards_end else reach, size - reach))
        reach *= 2
    return planes
