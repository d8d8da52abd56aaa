"""What runs on a device, and what a device is. No torch here: the batcher's side reads this too."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from poolservice_server.stages import PoolStage, SpecResult


class DeviceResult(NamedTuple):
    """What became of an item.

    Attributes:
        result: what each spec made of it.
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

    def run(self, stage: PoolStage, items: Sequence[np.ndarray]) -> list[tuple[SpecResult, ...]]:
        """Run `stage` over `items`, each (P, *spatial) of the same spatial shape and type, any strides.

        Returns:
            For each item, in order, what each spec made of it.

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
