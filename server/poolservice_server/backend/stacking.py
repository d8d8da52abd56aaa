"""Items beside one another, and what runs on them."""

from collections.abc import Sequence

import numpy as np
import torch

from poolservice_server.pooling.interop import to_array, to_tensor
from poolservice_server.stages import SpecResult


def stack(items: Sequence[np.ndarray]) -> np.ndarray:
    """The planes of all items beside one another, copied: (sum of P, *spatial), contiguous.

    Args:
        items: each (P, *spatial) of the same spatial shape and type, any strides.
    """
    # Told where to, it does not keep the order of interleaved planes.
    return np.concatenate(items, out=np.empty(_stacked_shape(items), items[0].dtype))


def stack_pinned(items: Sequence[np.ndarray]) -> torch.Tensor:
    """As `stack`, in memory that a GPU copies from without the processor's help."""
    stacked = torch.empty(_stacked_shape(items), dtype=to_tensor(items[0][:0]).dtype, pin_memory=True)
    np.concatenate(items, out=to_array(stacked))
    return stacked


def _stacked_shape(items: Sequence[np.ndarray]) -> tuple[int, ...]:
    return (sum(map(len, items)), *items[0].shape[1:])


def pooled(outputs: Sequence[tuple[torch.Tensor, torch.Tensor | None]]) -> tuple[SpecResult, ...]:
    """A stage's outputs in the CPU's memory, as arrays."""
    return tuple(
        SpecResult(to_array(values), None if indices is None else to_array(indices)) for values, indices in outputs
    )


def split(stacked: tuple[SpecResult, ...], items: Sequence[np.ndarray]) -> list[tuple[SpecResult, ...]]:
    """What was pooled from `items` stacked along their planes, to each its own."""
    parts = []
    start = 0
    for item in items:
        end = start + len(item)
        parts.append(
            tuple(
                SpecResult(values[start:end], None if indices is None else indices[start:end])
                for values, indices in stacked
            )
        )
        start = end
    return parts
