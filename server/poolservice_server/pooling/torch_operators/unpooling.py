"""Operators from the result of a pooling back to the shape of its input."""

import math
from typing import Any

import torch

from poolservice_server.pooling.interop import to_tensor


def max_unpool(samples: torch.Tensor, spec: Any) -> torch.Tensor:
    """Each value at its index, and 0 elsewhere: (N, C, *spatial) to (N, C, *out).

    Source:
        Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", 2014.
    """
    out = spec.spatial_shape(tuple(samples.shape[2:]))
    values = samples.flatten(2)
    indices = to_tensor(spec.indices.array).to(samples.device, torch.int64)
    indices = indices.view(-1, *samples.shape[1:]).flatten(2).expand(values.shape)
    result = samples.new_zeros((*samples.shape[:2], math.prod(out)))
    if samples.is_cpu:
        # In order, so that the last of several values for one position counts.
        result.scatter_(2, indices, values)
    else:
        # The last of several values for one position, however the device orders its threads.
        numbers = torch.arange(1, values.shape[2] + 1, device=samples.device).expand(values.shape)
        last = torch.zeros_like(result, dtype=torch.int64).scatter_reduce_(2, indices, numbers, "amax")
        result = torch.where(last > 0, values.gather(2, last.sub(1).clamp_min_(0)), result)
    return result.view(*samples.shape[:2], *out)


def avg_unpool(samples: torch.Tensor, spec: Any) -> torch.Tensor:
    """Each value spread evenly over its window: (N, C, *spatial) to (N, C, *out).

    Windows are products of intervals, so the values are spread along one dimension after the other.
    """
    out = spec.spatial_shape(tuple(samples.shape[2:]))
    values = samples
    for number, (kernel, stride, padding) in enumerate(zip(*spec.window, strict=True)):
        values = _spread(values.transpose(2 + number, -1), kernel, stride, padding, out[number])
        values = values.transpose(2 + number, -1)
    return values


def _spread(values: torch.Tensor, kernel: int, stride: int, padding: int, size: int) -> torch.Tensor:
    """Spread values (..., L) over intervals of the last dimension: (..., size)."""
    count = values.shape[-1]
    begin = torch.arange(count, device=values.device) * stride - padding
    inside = (begin + kernel).clamp_max(size) - begin.clamp_min(0)
    values = values / inside.clamp_min(1)
    if stride == kernel and padding == 0 and size == count * kernel:
        return values.unsqueeze(-1).expand(*values.shape, kernel).flatten(-2)
    spread = values.new_zeros((*values.shape[:-1], max((count - 1) * stride + kernel, size + padding)))
    if kernel <= count:
        for place in range(kernel):
            spread[..., place : place + (count - 1) * stride + 1 : stride] += values
    else:
        for number in range(count):
            spread[..., number * stride : number * stride + kernel] += values[..., number : number + 1]
    return spread[..., padding : padding + size]
