"""Items beside one another, and what runs on them."""

from collections.abc import Sequence
from typing import Protocol, cast

import numpy as np
import torch

from poolservice_server.backend.device import SpecResult, Stages
from poolservice_server.pooling.interop import to_array, to_tensor


class TensorStage(Protocol):
    """A stage as a device runs it."""

    def __call__(self, planes: torch.Tensor, /) -> Sequence[tuple[torch.Tensor, torch.Tensor | None]]:
        """Pool planes (P, *spatial): values, and indices where they were asked for, of each spec."""

    def on_arrays(self, planes: np.ndarray, /) -> Sequence[tuple[np.ndarray, np.ndarray | None]]:
        """The same over arrays, on the processor, which may be sooner without torch."""


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


def run_on_cpu(stages: Stages, planes: np.ndarray) -> tuple[SpecResult, ...]:
    """Run the one stage that a request has today on this thread, over planes of any strides."""
    (stage,) = stages
    return tuple([SpecResult(values, indices) for values, indices in cast(TensorStage, stage).on_arrays(planes)])


def run_stages(stages: Stages, planes: torch.Tensor) -> Sequence[tuple[torch.Tensor, torch.Tensor | None]]:
    """Run the one stage that a request has today."""
    (stage,) = stages
    return cast(TensorStage, stage)(planes)


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
