"""Operators that pool windows of which only some values count."""

from typing import Any

import torch

from poolservice_server.pooling.interop import to_tensor
from poolservice_server.pooling.torch_operators.windows import Windows


def masked_avg_pool(samples: torch.Tensor, spec: Any) -> torch.Tensor:
    """Mean of each window, weighted by a mask: y = (sum of w * x) / (sum of w)."""
    weights = _weights(samples, spec)
    values = torch.where(weights > 0, samples * weights, 0)
    total = _windows(values, spec).sum(lambda x: x)
    weight = _windows(weights, spec).sum(lambda w: w)
    return _of_samples(torch.where(_like(weight > 0, total), total / _like(weight, total), 0), samples)


def masked_max_pool(samples: torch.Tensor, spec: Any) -> torch.Tensor:
    """Maximum of each window where a mask is above 0."""
    counts = _weights(samples, spec) > 0
    maximum = _windows(torch.where(counts, samples, lowest(samples.dtype)), spec).max()
    has_any = _windows(counts.to(torch.float32), spec).max() > 0
    return _of_samples(torch.where(_like(has_any, maximum), maximum, 0), samples)


def masked_gem_pool(samples: torch.Tensor, spec: Any) -> torch.Tensor:
    """Generalized mean of each window, weighted by a mask: y = ((sum of w * max(x, eps)^p) / (sum of w))^(1/p).

    With v = w^(1/p) * max(x, eps), and m the maximum of v: y = m * ((sum of (v / m)^p) / (sum of w))^(1/p).

    Source:
        Radenovic, Tolias and Chum, "Fine-tuning CNN Image Retrieval with No Human Annotation", 2018.
    """
    weights = _weights(samples, spec)
    values = torch.where(weights > 0, samples.clamp_min(spec.eps) * weights.pow(1 / spec.p), 0)
    windows = _windows(values, spec)
    maximum = windows.max()
    divisor = torch.where(maximum > 0, maximum, 1)
    total = windows.sum(lambda v, m: (v / m).pow(spec.p), divisor)
    weight = _like(_windows(weights, spec).sum(lambda w: w), total)
    mean = divisor * (total / weight).pow(1 / spec.p)
    mean = torch.where(maximum.isinf(), maximum, mean)
    return _of_samples(torch.where(weight > 0, mean, 0), samples)


def lowest(dtype: torch.dtype) -> float:
    """Return the lowest value of a dtype."""
    return -float("inf") if dtype.is_floating_point else torch.iinfo(dtype).min


def _weights(samples: torch.Tensor, spec: Any) -> torch.Tensor:
    """Return the weights, at most 1, of the positions of all samples or of each: (1 or N, 1, *spatial)."""
    dtype = samples.dtype if samples.is_floating_point() else torch.float32
    if spec.lengths is not None:
        lengths = to_tensor(spec.lengths.array).to(samples.device, torch.int64).view(-1, 1, 1)
        return (torch.arange(samples.shape[2], device=samples.device) < lengths).to(dtype)
    mask = to_tensor(spec.mask.array).to(samples.device, torch.float64)
    mask = mask.view(-1, 1, *samples.shape[2:])
    largest = mask.flatten(1).amax(1).view(-1, *(1,) * (mask.ndim - 1))
    return torch.where(largest > 0, mask / largest, 0).to(dtype)


def _windows(values: torch.Tensor, spec: Any) -> Windows:
    return Windows(values.flatten(0, 1), spec)


def _like(per_sample: torch.Tensor, planes: torch.Tensor) -> torch.Tensor:
    """Return what one or each sample has, (1 or N, *out), for each of the planes, (N * C, *out)."""
    return per_sample.repeat_interleave(len(planes) // len(per_sample), 0)


def _of_samples(planes: torch.Tensor, samples: torch.Tensor) -> torch.Tensor:
    return planes.view(*samples.shape[:2], *planes.shape[1:])
