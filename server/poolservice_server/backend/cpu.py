"""The processor as a device."""

import platform
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from poolservice_server.backend import probe
from poolservice_server.backend.device import DeviceOutOfMemory
from poolservice_server.backend.stacking import split, stack
from poolservice_server.pooling import run_on_arrays
from poolservice_server.stages import PoolStage, SpecResult

# Items run in one call of up to this many bytes. Calls into torch are most of what a small item costs; beyond this
# size the planes fall out of the caches between the passes over them, and the copying is not paid back.
_CALL_BYTES = 2**20


class CpuDevice:
    """Runs each batch on the thread that calls it: cores are used by running several batches at a time.

    One thread a batch is also what keeps the bits the same whatever else runs.
    """

    name = "cpu"

    def __init__(self) -> None:
        self.description = _processor_name()
        torch.set_num_threads(1)

    def run(self, stage: PoolStage, items: Sequence[np.ndarray]) -> list[tuple[SpecResult, ...]]:
        """Run `stage` over `items`: small ones beside one another in one call, large ones one by one."""
        try:
            if len(items) == 1:
                return [run_on_arrays(stage, items[0])]
            return [result for call in _calls(items) for result in _run_call(stage, call)]
        except MemoryError:
            pass
        except RuntimeError as error:
            if "not enough memory" not in str(error) and "can't allocate memory" not in str(error):
                raise
        # Not from within the handlers: the error's traceback keeps the batch's tensors, and with them the memory that
        # a smaller batch needs.
        raise DeviceOutOfMemory("the machine is out of memory")

    def probe(self) -> bool:
        """Whether a known answer comes out right."""
        return probe.computes_correctly(self)

    def free_memory(self) -> None:
        """Nothing: torch keeps no cache of the CPU's memory."""


def _calls(items: Sequence[np.ndarray]) -> Iterator[Sequence[np.ndarray]]:
    """Neighbours that run in one call; one item always does, however large."""
    start = 0
    nbytes = 0
    for number, item in enumerate(items):
        nbytes += item.nbytes
        if nbytes > _CALL_BYTES and number > start:
            yield items[start:number]
            start = number
            nbytes = item.nbytes
    yield items[start:]


def _run_call(stage: PoolStage, items: Sequence[np.ndarray]) -> list[tuple[SpecResult, ...]]:
    if len(items) == 1:
        return [run_on_arrays(stage, items[0])]
    return split(run_on_arrays(stage, stack(items)), items)


def _processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
