"""Whole planes to one value each, in an order that depends on the size of a plane and on nothing else."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

Array = np.ndarray[Any, Any]

# Values that are added in 4 to 16 sums side by side without drifting.
_BLOCK = 1024

# uint16 holds the sum of 257 bytes.
_BYTES_IN_UINT16 = 256


def interleaved(planes: Array | torch.Tensor) -> bool:
    """Whether the planes lie value beside value, as the channels of a picture do, not one behind the other."""
    if isinstance(planes, torch.Tensor):
        return not planes.is_contiguous() and planes.movedim(0, -1).is_contiguous()
    return not planes.flags.c_contiguous and np.moveaxis(planes, 0, -1).flags.c_contiguous


def mean(planes: torch.Tensor) -> torch.Tensor:
    """The mean of each plane of float32 or float64, contiguous (P, *spatial), as (P, 1, ...); NaN of no values."""
    count = planes.shape[1:].numel()
    if planes.is_cpu and count:
        return torch.from_numpy(array_mean(planes.numpy()))
    return planes.view(len(planes), -1).sum(1).div_(count).view(-1, *(1,) * (planes.ndim - 1))


def array_mean(planes: Array) -> Array:
    """The mean of each plane of float32 or float64 (P, *spatial), some values in each, as (P, 1, ...).

    Blocks of a plane are summed in 4 to 16 sums side by side, too short to drift, and the blocks' sums in float64. That
    takes less than half of torch's time where the planes are short.
    """
    count = math.prod(planes.shape[1:])
    # What is not aligned would be summed in pieces, wherever those begin.
    values = planes if planes.flags.c_contiguous and planes.flags.aligned else planes.copy("C")
    rows = values.reshape(len(planes), count)
    total: Array
    if count <= _BLOCK:
        total = np.einsum("ij->i", rows)
        total /= count
    else:
        blocks = count // _BLOCK
        whole = np.einsum("ijk->ij", rows[:, : blocks * _BLOCK].reshape(len(planes), blocks, _BLOCK))
        rest = np.einsum("ij->i", rows[:, blocks * _BLOCK :])
        # Infinities of both signs give NaN, as they should.
        with np.errstate(invalid="ignore"):
            total = ((whole.sum(1, dtype=np.float64) + rest) / count).astype(planes.dtype)
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
