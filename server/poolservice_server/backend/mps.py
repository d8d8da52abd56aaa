"""Apple's GPU as a device."""

import platform
import threading
from collections.abc import Sequence

import numpy as np
import torch

from poolservice_server.backend import probe
from poolservice_server.backend.device import DeviceFailed, DeviceOutOfMemory
from poolservice_server.backend.stacking import pooled, split, stack
from poolservice_server.pooling import run_on_tensors
from poolservice_server.pooling.interop import to_tensor
from poolservice_server.stages import PoolStage, SpecResult


class MpsDevice:
    """Runs one batch at a time: torch's Metal backend is not safe to use from several threads at once.

    It has no float64, which is an item's fault here and so runs on the CPU where there is one behind it.
    """

    name = "mps"

    def __init__(self) -> None:
        self.description = f"Apple GPU ({platform.machine()})"
        self._lock = threading.Lock()

    def run(self, stage: PoolStage, items: Sequence[np.ndarray]) -> list[tuple[SpecResult, ...]]:
        """Run `stage` over `items`, copied to the device beside one another."""
        try:
            with self._lock, torch.inference_mode():
                outputs = run_on_tensors(stage, to_tensor(stack(items)).to("mps"))
                fetched = [(values.cpu(), None if indices is None else indices.cpu()) for values, indices in outputs]
            return split(pooled(fetched), items)
        except RuntimeError as error:
            message = str(error).partition("\n")[0]
            full = "out of memory" in message
            if not full and "command buffer" not in message.lower():
                raise
        # Not from within the handler: the error's traceback keeps the batch's tensors, and with them the memory that
        # a smaller batch needs.
        raise DeviceOutOfMemory(message) if full else DeviceFailed(message)

    def probe(self) -> bool:
        """Whether a known answer comes out right."""
        return probe.computes_correctly(self)

    def free_memory(self) -> None:
        """Give back what torch keeps of the device's memory."""
        torch.mps.empty_cache()
