"""Sums of exponentials over windows, which overflow nowhere because each is relative to the largest of its window."""

import math
from functools import reduce

import torch

from poolservice_server.pooling.torch_operators.windows import Windows

#: A number, or one for each plane: (P, 1, ...), or (1, 1, ...).
PerPlane = float | torch.Tensor


def exponential_sums(
    windows: Windows, keys: torch.Tensor, factor: PerPlane, *values: torch.Tensor
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return the largest key m of each window, but a finite one, and sums over the window, each (P, *out).

    The first sum is that of exp(factor * (key - m)), and for each of `values` there is that of value * exp(factor *
    (key - m)). A NaN gives NaN. Windows of several dimensions are summed along one dimension after the other: sums that
    belong to another maximum are multiplied by an exponential of the difference.

    Args:
        windows: the windows.
        keys: (P, *spatial).
        factor: positive.
        values: (P, *spatial) each.
    """
    if windows.is_plane:
        return _sums_of_planes(keys, factor, *values)
    limit = torch.finfo(keys.dtype).max
    maximum, sums = keys, list(values)
    for dimension in range(windows.dims):
        parts = windows.parts(maximum, dimension, -torch.inf)
        maximum = reduce(torch.maximum, parts).clamp(-limit, limit)
        sums_of_parts = [windows.parts(one, dimension, 0.0) for one in sums]
        for number, part in enumerate(parts):
            exponentials = _exponentials((part - maximum).mul_(factor))
            if not number:
                sums = [one[0] * exponentials for one in sums_of_parts]
                if not dimension:
                    weights = exponentials
                continue
            for total, one in zip(sums, sums_of_parts, strict=True):
                total.addcmul_(one[number], exponentials)
            if not dimension:
                weights.add_(exponentials)
        if not dimension:
            sums.insert(0, weights)
    return maximum, sums


def _sums_of_planes(
    keys: torch.Tensor, factor: PerPlane, *values: torch.Tensor
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    ones = (1,) * (keys.ndim - 1)
    limit = torch.finfo(keys.dtype).max
    flat = keys.flatten(1)
    maximum = flat.amax(1, keepdim=True).clamp_(-limit, limit)
    exponentials = _exponentials((flat - maximum).mul_(factor if isinstance(factor, float) else factor.view(-1, 1)))
    sums = [exponentials.sum(1), *((exponentials * one.flatten(1)).sum(1) for one in values)]
    return maximum.view(-1, *ones), [one.view(-1, *ones) for one in sums]


def _exponentials(exponents: torch.Tensor) -> torch.Tensor:
    """Return the exponentials of exponents of at most 0, in their place."""
    # Arithmetic with numbers below the least normal one takes ten times as long. Such exponentials become 0.
    least = torch.finfo(exponents.dtype).tiny
    return torch.threshold_(exponents.clamp_(min=math.log(2 * least)).exp_(), 3 * least, 0.0)


def largest_magnitude(values: torch.Tensor) -> float:
    """Return the largest magnitude of the values, or NaN if one is NaN."""
    lowest, highest = torch.aminmax(values)
    return max(-lowest.item(), highest.item())
