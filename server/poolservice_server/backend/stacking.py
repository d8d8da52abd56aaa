"""Stacks the payloads of a batch into one array of planes, and splits its results again."""

from collections.abc import Sequence

import numpy as np
import torch

from poolservice_server.pool_stage import SpecResult
from poolservice_server.pooling.interop import to_array, to_tensor


def stack(payloads: Sequence[np.ndarray]) -> np.ndarray:
    """Copy the planes of all payloads into one array: (sum of P, *spatial), contiguous.

    Args:
        payloads: planes (P, *spatial), all of the same spatial shape and dtype, any strides.
    """
    # Without `out`, numpy would keep the memory order of interleaved planes.
    return np.concatenate(payloads, out=np.empty(_stacked_shape(payloads), payloads[0].dtype))


def stack_pinned(payloads: Sequence[np.ndarray]) -> torch.Tensor:
    """Stack the payloads as `stack` does, but in pinned memory, from which a GPU copies without the CPU's help.

    For large payloads this copy is the bottleneck, not the GPU. Measured in November 2026 on an H100 with a Xeon host:
    64 payloads of 602 KB take 4.5 ms to stack on one thread, but 0.98 ms to copy in, max-pool and copy out.
    """
    stacked = torch.empty(_stacked_shape(payloads), dtype=to_tensor(payloads[0][:0]).dtype, pin_memory=True)
    np.concatenate(payloads, out=to_array(stacked))
    return stacked


def to_results(outputs: Sequence[tuple[torch.Tensor, torch.Tensor | None]]) -> tuple[SpecResult, ...]:
    """Convert the outputs of a stage, which must be in CPU memory, to arrays without a copy."""
    return tuple(
        SpecResult(to_array(values), None if indices is None else to_array(indices)) for values, indices in outputs
    )


def split(stacked: tuple[SpecResult, ...], payloads: Sequence[np.ndarray]) -> list[tuple[SpecResult, ...]]:
    """Split the results of the stacked payloads into those of each payload."""
    results = []
    start, total = 0, sum(map(len, payloads))
    for payload in payloads:
        end = start + len(payload)
        results.append(tuple(_rows(result, start, end, total) for result in stacked))
        start = end
    return results


def _rows(result: SpecResult, start: int, end: int, planes: int) -> SpecResult:
    """Return the result of some of the planes. A result has a row for each plane or for each sample."""
    values, indices = result
    if len(values) != planes:
        start, end = (plane * len(values) // planes for plane in (start, end))
    return SpecResult(values[start:end], None if indices is None else indices[start:end])


def _stacked_shape(payloads: Sequence[np.ndarray]) -> tuple[int, ...]:
    return (sum(map(len, payloads)), *payloads[0].shape[1:])
