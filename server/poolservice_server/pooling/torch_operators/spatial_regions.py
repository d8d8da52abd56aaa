"""Operators that pool regions of the plane: grids, pyramids and the region of the highest activation."""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

from poolservice_server.kernel_thresholds import TILE_MAX_ADDED
from poolservice_server.pooling.torch_operators.alignment import aligned
from poolservice_server.pooling.torch_operators.global_descriptors import unit
from poolservice_server.pooling.torch_operators.weighted_sums import weighted_sums

_MAXIMUM: Mapping[int, Any] = {1: F.adaptive_max_pool1d, 2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}
_MEAN: Mapping[int, Any] = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}


def spatial_pyramid_pool(samples: torch.Tensor, spec: Any) -> torch.Tensor:
    """Maximum or mean of the tiles of several grids, one grid after the other: (N, C, *spatial) to (N, D).

    Source:
        He, Zhang, Ren and Sun, "Spatial Pyramid Pooling in Deep Convolutional Networks for Visual Recognition", 2014.
    """
    of_tiles = tile_maxima if spec.mode == "max" else tile_means
    return torch.cat([of_tiles(samples, (level,) * spec.spatial_dims).flatten(1) for level in spec.levels], 1)


def rmac(samples: torch.Tensor, spec: Any) -> torch.Tensor:
    """Sum of the maxima of a grid of square regions, each of length 1, as a unit vector: to (N, C).

    Source:
        Tolias, Sicre and Jegou, "Particular object retrieval with integral max-pooling of CNN activations", 2016.
    """
    height, width = samples.shape[2:]
    # With the channels last, the maxima of rows and of columns are maxima of contiguous vectors.
    values = samples.permute(0, 2, 3, 1).contiguous()
    total = torch.zeros((), dtype=samples.dtype, device=samples.device)
    for size, tops, lefts in spec.grids(height, width):
        # The squares at one height share the maxima of their rows.
        rows = torch.stack([values[:, top : top + size].amax(1) for top in tops], 1)
        maxima = torch.stack([rows[:, :, left : left + size].amax(2) for left in lefts], 2)
        total = total + unit(maxima).sum((1, 2))
    return unit(total)


def scda(samples: torch.Tensor, spec: Any) -> torch.Tensor:
    """Mean and maximum of each channel over the largest region of high activation: (N, C, H, W) to (N, 2 C).

    Source:
        Wei, Luo, Wu and Zhou, "Selective Convolutional Descriptor Aggregation for Fine-Grained Image Retrieval", 2017.
    """
    activation = samples.sum(1)
    # float64 holds the sum of equal values, which therefore do not differ from their mean.
    above = activation > activation.mean((1, 2), keepdim=True, dtype=torch.float64)
    selected = _largest_component(above, diagonal=spec.connectivity == 8)
    selected |= ~selected.any(2, keepdim=True).any(1, keepdim=True)
    chosen = selected.flatten(1).to(samples.dtype)
    values = aligned(samples).flatten(2)
    mean = weighted_sums(values, chosen) / chosen.sum(1, keepdim=True)
    maximum = (values + torch.where(chosen > 0, 0.0, -math.inf).to(samples.dtype).unsqueeze(1)).amax(2)
    return unit(torch.cat((mean, maximum), 1))


def tile_maxima(values: torch.Tensor, sizes: tuple[int, ...]) -> torch.Tensor:
    """Return the maximum of each tile, with so many tiles along each of the last dimensions."""
    dims = len(sizes)
    if set(sizes) == {1}:
        return values.flatten(-dims).amax(-1).view(*values.shape[:-dims], *sizes)
    maxima: torch.Tensor = _MAXIMUM[dims](values, sizes)
    return maxima


def tile_means(values: torch.Tensor, sizes: tuple[int, ...]) -> torch.Tensor:
    """Return the mean of each tile, with so many tiles along each of the last dimensions."""
    dims = len(sizes)
    if set(sizes) == {1}:
        return values.flatten(-dims).mean(-1).view(*values.shape[:-dims], *sizes)
    spatial = values.shape[-dims:]
    if all(sizes) and math.prod(size // tiles for size, tiles in zip(spatial, sizes, strict=True)) > TILE_MAX_ADDED:
        return _means_of_large_tiles(values, sizes)
    means: torch.Tensor = _MEAN[dims](values, sizes)
    return means


def _means_of_large_tiles(values: torch.Tensor, sizes: tuple[int, ...]) -> torch.Tensor:
    """Return the means of tiles, the last dimension first, so that torch's kernel adds few values in one sum."""
    dims = len(sizes)
    for dimension, tiles in reversed(list(enumerate(sizes))):
        spatial = list(values.shape[-dims:])
        size, spatial[dimension] = spatial[dimension], tiles
        if size // tiles <= TILE_MAX_ADDED:
            values = _MEAN[dims](values, tuple(spatial))
        else:
            # torch's mean adds pairwise, so its error grows slowly with the size.
            axis = dimension - dims
            bounds = ((i * size // tiles, -(-(i + 1) * size // tiles)) for i in range(tiles))
            values = torch.stack([values.narrow(axis, low, high - low).mean(axis) for low, high in bounds], axis)
    return values


def _largest_component(mask: torch.Tensor, *, diagonal: bool) -> torch.Tensor:
    """Return the mask (N, H, W) of the largest connected component of each mask; of equal ones, the first by columns.

    Every position has a label, at first its own number. Labels point to lower ones of the same component, until each
    points to the lowest. A round looks at the neighbors, and then goes on to where the labels point, so the number of
    rounds grows with the logarithm of a component's length. It runs on the device that holds the mask; the end of the
    rounds is the only value that the processor waits for.

    Source:
        Zhang, Azad and Hu, "FastSV: A Distributed-Memory Connected Component Algorithm with Fast Convergence", 2020.
    """
    # Numbered by columns, because the order decides between components of the same size.
    columns = mask.transpose(1, 2).contiguous()
    count = columns.numel()
    inside = columns.flatten()
    # The last label stands for the positions outside of the mask.
    parents = torch.where(inside, torch.arange(count, device=mask.device), count)
    outside = parents.new_full((1,), count)
    while True:
        parents = torch.cat((parents, outside))
        labels = parents[parents[:-1]]
        lowest = _lowest_neighbor(labels.view(columns.shape), count, diagonal=diagonal).flatten()
        lowest = torch.where(inside, lowest, count)
        hooked = parents.scatter_reduce(0, parents[:-1], lowest, "amin")[:-1]
        joined = torch.minimum(torch.minimum(hooked, lowest), labels)
        joined = torch.where(inside, joined, count)
        if torch.equal(joined, parents[:-1]):
            break
        parents = joined
    sizes = torch.zeros(count + 1, dtype=torch.int64, device=mask.device)
    sizes.scatter_add_(0, joined, inside.long())
    largest = sizes[:-1].view(len(mask), -1).argmax(1) + torch.arange(0, count, count // len(mask), device=mask.device)
    return (joined.view(columns.shape) == largest.view(-1, 1, 1)).transpose(1, 2)


def _lowest_neighbor(labels: torch.Tensor, highest: int, *, diagonal: bool) -> torch.Tensor:
    """Return the lowest label (N, H, W) of each position and its neighbors."""
    padded = F.pad(labels, (1, 1, 1, 1), value=highest)
    rows = torch.minimum(torch.minimum(padded[:, :-2], padded[:, 1:-1]), padded[:, 2:])
    if diagonal:
        return torch.minimum(torch.minimum(rows[:, :, :-2], rows[:, :, 1:-1]), rows[:, :, 2:])
    columns = torch.minimum(padded[:, 1:-1, :-2], padded[:, 1:-1, 2:])
    return torch.minimum(rows[:, :, 1:-1], columns)
