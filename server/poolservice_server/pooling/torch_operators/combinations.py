"""Operators that combine means, maxima and values of the same windows."""

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from poolservice_server.pooling.torch_operators.spatial_regions import tile_maxima, tile_means
from poolservice_server.pooling.torch_operators.windows import Windows
from poolservice_server.pooling.window_geometry import mean_divisors


def pool_former_pool(planes: torch.Tensor, spec: Any) -> torch.Tensor:
    """Mean of the window around each position, minus the value there: y = mean of x - x.

    Source:
        Yu et al., "MetaFormer Is Actually What You Need for Vision", 2022.
    """
    total = planes
    spatial = tuple(planes.shape[1:])
    for dim, (kernel, size) in enumerate(zip(spec.window_in(spatial).kernel_size, spatial, strict=True), start=1):
        reach = kernel // 2
        padded = F.pad(total, (*(0, 0) * (planes.ndim - 1 - dim), reach, reach))
        total = padded.narrow(dim, 0, size)
        for offset in range(1, kernel):
            part = padded.narrow(dim, offset, size)
            total = total + part if offset == 1 else total.add_(part)
        positions = torch.arange(size, device=planes.device)
        counts = (positions + reach).clamp_(max=size - 1) - (positions - reach).clamp_(min=0) + 1
        shape = (size, *(1,) * (planes.ndim - 1 - dim))
        total = total / counts.to(planes.dtype).view(shape)
    return total - planes


def adaptive_avg_max_pool(planes: torch.Tensor, spec: Any) -> torch.Tensor:
    """Mean of the maximum and the mean of each tile: y = (max + mean) / 2.

    Source:
        timm.layers.AdaptiveAvgMaxPool2d.
    """
    sizes = tuple(size if wanted is None else wanted for wanted, size in zip(spec.sizes, planes.shape[1:], strict=True))
    return (tile_means(planes, sizes) + tile_maxima(planes, sizes)).mul_(0.5)


def adaptive_cat_avg_max_pool(samples: torch.Tensor, spec: Any) -> torch.Tensor:
    """Means of the tiles and then their maxima: (N, C, *spatial) to (N, 2 C, *out).

    Source:
        timm.layers.AdaptiveCatAvgMaxPool2d.
    """
    sizes = spec.output_size_in(tuple(samples.shape[2:]))
    return torch.cat((tile_means(samples, sizes), tile_maxima(samples, sizes)), 1)


def gated_max_avg_pool(samples: torch.Tensor, spec: Any) -> torch.Tensor:
    """Maximum and mean of each window, weighted by a gate: y = g * max + (1 - g) * mean, g = sigmoid(sum of w * x).

    Source:
        Lee, Gallagher and Tu, "Generalizing Pooling Functions in Convolutional Neural Networks: Mixed, Gated, and
        Tree", 2016.
    """
    planes = samples.flatten(0, 1)
    windows = Windows(planes, spec)
    # The parameter may have a dtype that torch lacks or read-only memory.
    masks = torch.from_numpy(spec.weight.array.astype(np.float64)).to(samples.device, samples.dtype)
    masks = masks.reshape(-1, math.prod(spec.window.kernel_size))
    masks = masks.expand(len(planes), -1) if len(masks) == 1 else masks.repeat(len(samples), 1)
    logits, sums = windows.convolved(masks), windows.total(planes)
    gate = torch.sigmoid(logits)
    divisors = torch.from_numpy(mean_divisors(spec.window, tuple(planes.shape[1:]), True))
    mean = sums / divisors.to(samples.device, samples.dtype)
    pooled = windows.max() * gate + mean * (1 - gate)
    return pooled.view(*samples.shape[:2], *pooled.shape[1:])
