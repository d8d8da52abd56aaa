"""The processor as a device."""

import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from poolservice_server.backend import probe
from poolservice_server.backend.base import DeviceOutOfMemory, Pooled, Stages
from poolservice_server.backend.tensors import pooled, run_stages, split, stack, to_tensor

# Up to this size an item costs more in calls into torch than in being copied to stand beside others.
_STACK_BYTES = 32 * 1024


class CpuDevice:
    """Runs each batch on the thread that calls it: cores are used by running several batches at a time.

    One thread a batch is also what keeps the bits the same whatever else runs.
    """

    name = "cpu"

    def __init__(self) -> None:
        self.description = _processor_name()
        torch.set_num_threads(1)

    def run(self, stages: Stages, items: Sequence[np.ndarray]) -> list[tuple[Pooled, ...]]:
        """Run `stages` over `items`: small ones in one call, large ones one by one."""
        try:
            with torch.inference_mode():
                if len(items) > 1 and sum(item.nbytes for item in items) <= _STACK_BYTES * len(items):
                    return split(pooled(run_stages(stages, stack(items))), items)
                return [pooled(run_stages(stages, to_tensor(item))) for item in items]
        except MemoryError:
            raise DeviceOutOfMemory("the machine is out of memory") from None
        except RuntimeError as error:
            if "not enough memory" in str(error) or "can't allocate memory" in str(error):
                raise DeviceOutOfMemory("the machine is out of memory") from None
            raise

    def probe(self) -> bool:
        """Whether a known answer comes out right."""
        return probe.computes_rightly(self)

    def free_memory(self) -> None:
        """Nothing: torch keeps no cache of the CPU's memory."""


def _processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
