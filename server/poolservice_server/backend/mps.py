"""Apple's GPU as a device."""

import platform
import threading
from collections.abc import Sequence

import numpy as np
import torch

from poolservice_server.backend import probe
from poolservice_server.backend.device import DeviceFailed, DeviceOutOfMemory
from poolservice_server.backend.stacking import split, stack, to_results
from poolservice_server.pool_stage import PoolStage, SpecResult
from poolservice_server.pooling import run_on_tensors
from poolservice_server.pooling.interop import to_tensor
from poolservice_server.stop import Stop, never


class MpsDevice:
    """Runs one batch at a time, because torch's Metal backend is not thread-safe.

    Metal has no float64. A float64 batch therefore fails as if its payloads were at fault, and the backend runs it on
    the CPU if it may.
    """

    name = "mps"

    def __init__(self) -> None:
        self.description = f"Apple GPU ({platform.machine()})"
        self._lock = threading.Lock()

    def run(self, stage: PoolStage, payloads: Sequence[np.ndarray], stop: Stop = never) -> list[tuple[SpecResult, ...]]:
        """Stack the payloads, copy them to the GPU and run the stage over all of them, to the end."""
        try:
            with self._lock, torch.inference_mode():
                outputs = run_on_tensors(stage, to_tensor(stack(payloads)).to("mps"))
                fetched = [(values.cpu(), None if indices is None else indices.cpu()) for values, indices in outputs]
            return split(to_results(fetched), payloads)
        except RuntimeError as error:
            message = str(error).partition("\n")[0]
            out_of_memory = "out of memory" in message
            if not out_of_memory and "command buffer" not in message.lower():
                raise
        # Raised outside the handler, because the traceback of the original error holds the tensors of the batch, and
        # with them the memory that a smaller batch needs.
        raise DeviceOutOfMemory(message) if out_of_memory else DeviceFailed(message)

    def probe(self) -> bool:
        """Return True if a known result is computed correctly."""
        return probe.computes_correctly(self)

    def free_memory(self) -> None:
        """Release the GPU memory that torch caches."""
        torch.mps.empty_cache()
