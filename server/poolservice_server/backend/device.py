"""What runs on a device, and what a device is. No torch here: the batcher's side reads this too."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple, Protocol

import numpy as np


class SpecResult(NamedTuple):
    """What one spec made of an item's planes.

    Attributes:
        values: (P, *output spatial shape), of the operator's result type.
        indices: int64 of the same shape, where the spec asked for them.
    """

    values: np.ndarray
    indices: np.ndarray | None = None


class Stage(Hashable, Protocol):
    """A step that runs on a device over a batch, equal to another when it computes the same.

    Today a request has one stage, which pools. A backbone before it, or further pools after it, are more stages.
    """


#: What happens to an item on the device, in order.
Stages = tuple[Stage, ...]


class BatchKey:
    """What may run together: equal stages over planes of equal spatial shape and type.

    Looked up several times a request, so its hash is taken once: that of the parts walks every parameter of each spec.

    Attributes:
        stages: what happens to the items.
        spatial: their spatial shape.
        dtype: their type.
    """

    __slots__ = ("_hash", "dtype", "spatial", "stages")

    def __init__(self, stages: Stages, spatial: tuple[int, ...], dtype: np.dtype) -> None:
        self.stages = stages
        self.spatial = spatial
        self.dtype = dtype
        self._hash = hash((stages, spatial, dtype))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BatchKey):
            return NotImplemented
        return (self.stages, self.spatial, self.dtype) == (other.stages, other.spatial, other.dtype)


class DeviceResult(NamedTuple):
    """What became of an item.

    Attributes:
        result: what each spec of the last stage made of it.
        device: where it ran.
        batch_size: how many items ran in one go with it.
    """

    result: tuple[SpecResult, ...]
    device: str
    batch_size: int


class DeviceState(NamedTuple):
    """A device as it is now: `reason` says why it is suspended, and is empty while it serves."""

    name: str
    description: str
    suspended: bool
    reason: str


class DeviceOutOfMemory(Exception):
    """The batch does not fit into the device's memory; a smaller one may."""


class DeviceFailed(Exception):
    """The device or its driver failed, not the work: it may run elsewhere."""


class NoDevice(Exception):
    """No device takes work now, and falling back to the CPU was ruled out (`require_gpu`)."""


class Device(Protocol):
    """A place where batches run."""

    name: str
    """In torch's words: "cpu", "cuda:0", "mps"."""
    description: str
    """The card's or the processor's name."""

    def run(self, stages: Stages, items: Sequence[np.ndarray]) -> list[tuple[SpecResult, ...]]:
        """Run `stages` over `items`, each (P, *spatial) of the same spatial shape and type, any strides.

        Returns:
            For each item, in order, what each spec of the last stage made of it.

        Raises:
            DeviceOutOfMemory: a smaller batch may fit.
            DeviceFailed: the device failed.
            Exception: anything else is an item's fault.
        """
        ...

    def probe(self) -> bool:
        """Whether the device computes a known answer rightly; never raises."""
        ...

    def free_memory(self) -> None:
        """Give cached memory back."""
        ...
