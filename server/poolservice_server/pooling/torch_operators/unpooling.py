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
        # On one thread, in order.
        result.scatter_(2, indices, values)
    else:
        result = scatter_in_order(result, indices, values)
    return result.view(*samples.shape[:2], *out)


def scatter_in_order(result: torch.Tensor, indices: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return `result` (N, C, out) with values (N, C, L) at their indices, on any device.

    Of several values for one position the last one counts, however the device orders its threads.
    """
    numbers = torch.arange(1, values.shape[2] + 1, device=values.device).expand(values.shape)
    last = torch.zeros_like(result, dtype=torch.int64).scatter_reduce_(2, indices, numbers, "amax")
    return torch.where(last > 0, values.gather(2, last.sub(1).clamp_min_(0)), result)


def avg_unpool(samples: torch.Tensor, spec: Any) -> torch.Tensor:
    """Each value spread evenly over its window: (N, C, *spatial) to (N, C, *out).

    This is the gradient of the mean of each window. Windows are products of intervals, so the values are spread along
    one dimension after the other. The last dimension comes first, while there are few values, because its strided
    copies are the slowest.
    """
    out = spec.spatial_shape(tuple(samples.shape[2:]))
    values = samples
    for number, (kernel, stride, padding) in reversed(list(enumerate(zip(*spec.window, strict=True)))):
        values = _spread(values, number - len(out), kernel, stride, padding, out[number])
    return values


def _spread(values: torch.Tensor, axis: int, kernel: int, stride: int, padding: int, size: int) -> torch.Tensor:
    """Spread values over intervals along an axis, counted from the last one, which then has `size` values."""
    count = values.shape[axis]
    begin = torch.arange(count, device=values.device) * stride - padding
    inside = ((begin + kernel).clamp_max(size) - begin.clamp_min(0)).clamp_min(1)
    shares = values / inside.view(-1, *(1,) * (-1 - axis))
    shape = list(values.shape)
    shape[axis] = max((count - 1) * stride + kernel, size + padding)
    rest: Any = (slice(None),) * (-1 - axis)
    if kernel == stride and shape[axis] == count * kernel:
        if axis == -1 and kernel == 2:
            # The fastest way to write each value twice: a complex number consists of two adjacent ones.
            return torch.view_as_real(torch.complex(shares, shares)).flatten(-2).narrow(axis, padding, size)
        spread = values.new_empty(shape)
        for place in range(kernel):
            spread[(..., slice(place, None, stride), *rest)] = shares
        return spread.narrow(axis, padding, size)
    spread = values.new_zeros(shape)
    if kernel <= count:
        for place in range(kernel):
            spread[(..., slice(place, place + (count - 1) * stride + 1, stride), *rest)] += shares
    else:
        for number in range(count):
            window: Any = (..., slice(number * stride, number * stride + kernel), *rest)
            spread[window] += shares.narrow(axis, number, 1)
    return spread.narrow(axis, padding, size)
