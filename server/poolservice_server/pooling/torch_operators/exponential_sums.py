"""Sums of exponentials over windows, which overflow nowhere because each is relative to the largest of its window."""

from functools import reduce

import torch

from poolservice_server.pooling.torch_operators.windows import Windows, added

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
        exponentials = [(part - maximum).mul_(factor).exp_() for part in parts]
        sums = [
            added([part * one for part, one in zip(windows.parts(old, dimension, 0.0), exponentials, strict=True)])
            for old in sums
        ]
        if not dimension:
            sums.insert(0, added(exponentials))
    return maximum, sums


def _sums_of_planes(
    keys: torch.Tensor, factor: PerPlane, *values: torch.Tensor
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    ones = (1,) * (keys.ndim - 1)
    limit = torch.finfo(keys.dtype).max
    flat = keys.flatten(1)
    maximum = flat.amax(1, keepdim=True).clamp_(-limit, limit)
    exponentials = (flat - maximum).mul_(factor if isinstance(factor, float) else factor.view(-1, 1)).exp_()
    sums = [exponentials.sum(1), *((exponentials * one.flatten(1)).sum(1) for one in values)]
    return maximum.view(-1, *ones), [one.view(-1, *ones) for one in sums]


def is_within(sums: torch.Tensor, low: float, high: float) -> bool:
    """Return True if all sums are in a range, so that none of them overflowed, lost its terms or is NaN."""
    lowest, highest = torch.aminmax(sums)
    return bool(lowest >= low) and bool(highest <= high)
