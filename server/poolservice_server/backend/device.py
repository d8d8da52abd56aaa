"""The interface of a device, its errors, and what the backend reports about it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch

from poolservice_server.backbone_stage import BackboneInput, BackboneResult, BackboneStage
from poolservice_server.pool_stage import PoolStage, SpecResult
from poolservice_server.stop import Stop, never

if TYPE_CHECKING:
    from poolservice_server.backbones.engines.network import Network

#: What a device runs.
Stage = PoolStage | BackboneStage

#: What a request gives a device: planes, or the samples for a backbone.
Payload = np.ndarray | BackboneInput

#: The result of a payload: of each spec of a PoolStage, or of a BackboneStage.
Result = tuple[SpecResult, ...] | BackboneResult


class DeviceResult(NamedTuple):
    """The result of one payload.

    Attributes:
        result: a tuple with the SpecResult of each spec of a PoolStage, or the BackboneResult of a BackboneStage.
        device: the name of the device that ran it.
        batch_size: the number of payloads that ran in the same batch on the device.
    """

    result: Any
    device: str
    batch_size: int


class DeviceState(NamedTuple):
    """The current state of a device; `reason` says why it is suspended and is empty if it is not."""

    name: str
    description: str
    suspended: bool
    reason: str


class DeviceOutOfMemory(Exception):
    """The batch does not fit into the device's memory; a smaller one may."""


class DeviceFailed(Exception):
    """The device or its driver failed, through no fault of the batch, which may run on another device."""


class NoDevice(Exception):
    """A device does not exist or does not work, or all devices are suspended; `require_gpu` excludes the CPU."""


class Device(Protocol):
    """Runs batches."""

    name: str
    """As torch names it: "cpu", "cuda:0", "mps"."""
    description: str
    """The model name of the GPU or the CPU."""
    torch_device: torch.device
    """Where torch keeps the tensors of this device."""
    networks: "dict[str, Network]"
    """The backbones that this device runs, by name."""

    def run(self, stage: PoolStage, payloads: Sequence[np.ndarray], stop: Stop = never) -> list[tuple[SpecResult, ...]]:
        """Run a batch of pooling.

        Args:
            stage: the stage to run.
            payloads: planes (P, *spatial), all of the same spatial shape and dtype, any strides.
            stop: returns True once nobody waits for any of the results.

        Returns:
            For each payload, in order, the result of each spec of the stage.

        Raises:
            DeviceOutOfMemory: a smaller batch may fit.
            DeviceFailed: the device failed.
            WorkStopped: the work ended early, because `stop` returned True.
            Exception: any other error is the fault of a payload.
        """
        ...

    def run_backbone(
        self, stage: BackboneStage, payloads: Sequence[BackboneInput], stop: Stop = never
    ) -> list[BackboneResult]:
        """Run a batch of one of `networks`, whose samples have one shape and dtype. Errors are as for `run`."""
        ...

    def probe(self) -> bool:
        """Return True if the device computes a known result correctly; never raise."""
        ...

    def free_memory(self) -> None:
        """Release the memory that torch caches."""
        ...

    def memory(self) -> Mapping[str, int]:
        """Return the bytes that torch has "allocated" for tensors and "reserved" on the device; empty on the CPU."""
        ...

    def used_bytes(self) -> int:
        """Return the memory that this process uses on the device, or 0 if it is unknown.

        On a CUDA GPU, it is the peak since the previous call.
        """
        ...
