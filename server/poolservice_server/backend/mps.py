"""Apple's GPU as a device."""

import platform
import threading
from collections.abc import Sequence

import numpy as np
import torch

from poolservice_server.backend import probe
from poolservice_server.backend.base import DeviceFailed, DeviceOutOfMemory, Pooled, Stages
from poolservice_server.backend.tensors import pooled, run_stages, split, stack


class MpsDevice:
    """Runs one batch at a time: torch's Metal backend is not safe to use from several threads at once.

    It has no float64, which is an item's fault here and so runs on the CPU where there is one behind it.
    """

    name = "mps"

    def __init__(self) -> None:
        self.description = f"Apple GPU ({platform.machine()})"
        self._lock = threading.Lock()

    def run(self, stages: Stages, items: Sequence[np.ndarray]) -> list[tuple[Pooled, ...]]:
        """Run `stages` over `items`, copied to the device beside one another."""
        stacked = stack(items)
        try:
            with self._lock, torch.inference_mode():
                outputs = run_stages(stages, stacked.to("mps"))
                fetched = [(values.cpu(), None if indices is None else indices.cpu()) for values, indices in outputs]
        except RuntimeError as error:
            message = str(error).partition("\n")[0]
            if "out of memory" in message:
                raise DeviceOutOfMemory(message) from error
            if "command buffer" in message.lower():
                raise DeviceFailed(message) from error
            raise
        return split(pooled(fetched), items)

    def probe(self) -> bool:
        """Whether a known answer comes out right."""
        return probe.computes_rightly(self)

    def free_memory(self) -> None:
        """Give back what torch keeps of the device's memory."""
        torch.mps.empty_cache()
