"""Whole planes to one value each, in an order that depends on the size of a plane and on nothing else."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

Array = np.ndarray[Any, Any]

# Values in a plane that are added in 4 to 16 sums side by side without drifting.
_LONGEST_SUM = 1024

# From here on, torch splits the sum of a lone plane among its threads, and so changes its last bits.
_SPLIT_AMONG_THREADS = 2**15

# uint16 holds the sum of 257 bytes.
_BYTES_IN_UINT16 = 256


def interleaved(planes: Array | torch.Tensor) -> bool:
    """Whether the planes lie value beside value, as the channels of a picture do, not one behind the other."""
    if isinstance(planes, torch.Tensor):
        return not planes.is_contiguous() and planes.movedim(0, -1).is_contiguous()
    return not planes.flags.c_contiguous and np.moveaxis(planes, 0, -1).flags.c_contiguous


def mean(planes: torch.Tensor) -> torch.Tensor:
    """The mean of each plane of floats, contiguous (P, *spatial), as (P, 1, ...)."""
    if planes.is_cpu and planes.dtype in (torch.float32, torch.float64) and suit_short_mean(planes.shape):
        return torch.from_numpy(short_mean(planes.numpy()))
    # Summed pairwise. The bits of torch.mean, which takes two to three times as long to find out what the planes are.
    flat = planes.view(len(planes), -1)
    count = flat.shape[1]
    if len(flat) == 1 and count >= _SPLIT_AMONG_THREADS and torch.get_num_threads() > 1:
        total = torch.cat((flat, flat)).sum(1)[:1]
    else:
        total = flat.sum(1)
    return total.div_(count).view(-1, *(1,) * (planes.ndim - 1))


def suit_short_mean(shape: Sequence[int]) -> bool:
    """Whether planes (P, *spatial) of this shape have few enough values each, but some."""
    return 0 < math.prod(shape[1:]) <= _LONGEST_SUM


def short_mean(planes: Array) -> Array:
    """The mean of each short plane of float32 or float64 (P, *spatial), of a shape that suits.

    In a third of the time that torch takes.
    """
    count = math.prod(planes.shape[1:])
    # What is not aligned would be summed in pieces, wherever those begin.
    values = planes if planes.flags.c_contiguous and planes.flags.aligned else planes.copy("C")
    total: Array = np.einsum("ij->i", values.reshape(len(planes), count))
    total /= count
    return total.reshape(-1, *(1,) * (planes.ndim - 1))


def byte_sums(planes: Array) -> Array:
    """The sum of each plane of uint8 (P, *spatial), as int64 (P,), exact."""
    # torch would widen the whole input first; numpy widens as it adds.
    if interleaved(planes):
        values = np.moveaxis(planes, 0, -1).reshape(1, -1, len(planes))
    else:
        values = planes.reshape(len(planes), -1, 1)
    outer, count, inner = values.shape
    rows = count // _BYTES_IN_UINT16
    head = values[:, : rows * _BYTES_IN_UINT16].reshape(outer, _BYTES_IN_UINT16, rows * inner)
    total: Array = head.sum(1, dtype=np.uint16).reshape(outer, rows, inner).sum(1, dtype=np.int64)
    total += values[:, rows * _BYTES_IN_UINT16 :].sum(1, dtype=np.int64)
    return total.reshape(-1)


def fold(planes: torch.Tensor, extreme: Callable[..., torch.Tensor]) -> torch.Tensor:
    """The amax or amin of each plane (P, *spatial), as (P,)."""
    values = _as_runs(planes)
    outer, count, inner = values.shape
    if inner == 1:
        return extreme(values.view(outer, count), 1)
    # Whole rows against one another, as many values at a time as an instruction takes.
    rows = _divisor(count)
    return extreme(extreme(values.view(rows, -1), 0).view(-1, inner), 0)


def _as_runs(planes: torch.Tensor) -> torch.Tensor:
    """As (P, n, 1), or as (1, n, P) where the planes lie interleaved; contiguous."""
    if interleaved(planes):
        return planes.movedim(0, -1).reshape(1, -1, len(planes))
    return planes.reshape(len(planes), -1, 1).contiguous()


def _divisor(count: int) -> int:
    return next((rows for rows in range(min(count, 2**9), 0, -1) if count % rows == 0), 1)
