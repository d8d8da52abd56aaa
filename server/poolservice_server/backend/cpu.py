"""The CPU as a device."""

import platform
import resource
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from poolservice_server import allocator
from poolservice_server.backbone_stage import BackboneInput, BackboneResult, BackboneStage
from poolservice_server.backend import probe
from poolservice_server.backend.device import DeviceOutOfMemory
from poolservice_server.backend.stacking import split, stack
from poolservice_server.pool_stage import PoolStage, SpecResult
from poolservice_server.pooling import run_on_arrays
from poolservice_server.stop import Stop, WorkStopped, never

if TYPE_CHECKING:
    from poolservice_server.backbones.engines.network import Network

# Payloads of up to this many bytes in all are stacked and pooled together. For small payloads the calls into torch and
# numpy are most of the cost. Beyond this size the planes no longer stay in the caches between the passes over them,
# and stacking costs more than it saves.
_STACKED_BYTES = 2**20

# The memory of this process in pages, on Linux.
_MEMORY_COUNTS = Path("/proc/self/statm")

_OUT_OF_MEMORY = "the machine is out of memory"


class CpuDevice:
    """Runs each batch on the calling thread; the server uses several cores by running several batches concurrently.

    torch uses a single thread per batch, so that the bits do not depend on what else runs.
    """

    name = "cpu"

    def __init__(self) -> None:
        self.description = _processor_name()
        self.torch_device = torch.device("cpu")
        self.networks: dict[str, Network] = {}
        torch.set_num_threads(1)

    def run(self, stage: PoolStage, payloads: Sequence[np.ndarray], stop: Stop = never) -> list[tuple[SpecResult, ...]]:
        """Run a batch: stack small payloads, run large ones one by one."""
        try:
            if len(payloads) == 1:
                return [run_on_arrays(stage, payloads[0], stop)]
            return [result for group in _groups(payloads) for result in _run_group(stage, group, stop)]
        except MemoryError:
            pass
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
        # Raised outside the handlers, because the traceback of the original error holds the tensors of the batch, and
        # with them the memory that a smaller batch needs.
        raise DeviceOutOfMemory(_OUT_OF_MEMORY)

    def run_backbone(
        self, stage: BackboneStage, payloads: Sequence[BackboneInput], stop: Stop = never
    ) -> list[BackboneResult]:
        """Run the payloads one by one."""
        network = self.networks[stage.backbone]
        try:
            return [network.run_on_array(stage, payload, stop) for payload in payloads]
        except MemoryError:
            pass
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
        raise DeviceOutOfMemory(_OUT_OF_MEMORY)

    def probe(self) -> bool:
        """Return True if a known result is computed correctly."""
        return probe.computes_correctly(self)

    def free_memory(self) -> None:
        """Do nothing: torch does not cache CPU memory."""

    def memory(self) -> Mapping[str, int]:
        """Return nothing: torch does not count CPU memory."""
        return {}

    def used_bytes(self) -> int:
        """Return the resident memory of this process, without files and without what it could return to the kernel."""
        if not _MEMORY_COUNTS.is_file():
            return 0
        allocator.trim()
        resident, shared = _MEMORY_COUNTS.read_text().split()[1:3]
        return (int(resident) - int(shared)) * resource.getpagesize()


def _is_out_of_memory(error: RuntimeError) -> bool:
    return "not enough memory" in str(error) or "can't allocate memory" in str(error)


def _groups(payloads: Sequence[np.ndarray]) -> Iterator[Sequence[np.ndarray]]:
    """Yield groups of consecutive payloads to stack; a large payload is a group by itself."""
    start = 0
    nbytes = 0
    for number, payload in enumerate(payloads):
        nbytes += payload.nbytes
        if nbytes > _STACKED_BYTES and number > start:
            yield payloads[start:number]
            start = number
            nbytes = payload.nbytes
    yield payloads[start:]


def _run_group(stage: PoolStage, payloads: Sequence[np.ndarray], stop: Stop) -> list[tuple[SpecResult, ...]]:
    if stop():
        raise WorkStopped
    if len(payloads) == 1:
        return [run_on_arrays(stage, payloads[0], stop)]
    return split(run_on_arrays(stage, stack(payloads), stop), payloads)


def _processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
