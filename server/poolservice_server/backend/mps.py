"""Apple's GPU as a device."""

import platform
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from poolservice_server.backbone_stage import BackboneInput, BackboneResult, BackboneStage
from poolservice_server.backend import probe
from poolservice_server.backend.backbone_batch import BackboneBatch
from poolservice_server.backend.device import DeviceFailed, DeviceOutOfMemory
from poolservice_server.backend.stacking import split, stack, to_results
from poolservice_server.pool_stage import PoolStage, SpecResult
from poolservice_server.pooling import run_on_tensors
from poolservice_server.pooling.array_types import TensorResult
from poolservice_server.pooling.interop import to_tensor
from poolservice_server.stop import Stop, never

if TYPE_CHECKING:
    from poolservice_server.backbones.engines.network import Network


class MpsDevice:
    """Runs one batch at a time, because torch's Metal backend is not thread-safe.

    Metal has no float64. A float64 batch therefore fails as if its payloads were at fault, and the backend runs it on
    the CPU if it may.
    """

    name = "mps"

    def __init__(self) -> None:
        self.description = f"Apple GPU ({platform.machine()})"
        self.torch_device = torch.device("mps")
        self.networks: dict[str, Network] = {}
        self._lock = threading.Lock()

    def run(self, stage: PoolStage, payloads: Sequence[np.ndarray], stop: Stop = never) -> list[tuple[SpecResult, ...]]:
        """Stack the payloads, copy them to the GPU and run the stage over all of them, to the end."""
        return split(to_results(self._run(payloads, lambda planes: run_on_tensors(stage, planes))), payloads)

    def run_backbone(
        self, stage: BackboneStage, payloads: Sequence[BackboneInput], stop: Stop = never
    ) -> list[BackboneResult]:
        """Stack the samples, copy them to the GPU, and run the network, normalization and pooling there, to the end."""
        batch = BackboneBatch(self.networks[stage.backbone], stage, payloads)
        started = time.perf_counter()
        fetched = self._run([payload.samples for payload in payloads], batch.compute)
        return batch.results(fetched, time.perf_counter() - started)

    def probe(self) -> bool:
        """Return True if the known results are computed correctly."""
        return probe.computes_correctly(self)

    def free_memory(self) -> None:
        """Release the GPU memory that torch caches."""
        torch.mps.empty_cache()

    def memory(self) -> Mapping[str, int]:
        """Return the memory of torch's tensors, and what Metal's driver has reserved for the process."""
        return {
            "allocated": torch.mps.current_allocated_memory(),
            "reserved": torch.mps.driver_allocated_memory(),
        }

    def used_bytes(self) -> int:
        """Return the memory of torch's tensors."""
        return torch.mps.current_allocated_memory()

    def _run(
        self, payloads: Sequence[np.ndarray], compute: Callable[[torch.Tensor], list[TensorResult]]
    ) -> list[TensorResult]:
        try:
            with self._lock, torch.inference_mode():
                outputs = compute(to_tensor(stack(payloads)).to("mps"))
                return [(values.cpu(), None if indices is None else indices.cpu()) for values, indices in outputs]
        except RuntimeError as error:
            message = str(error).partition("\n")[0]
            out_of_memory = "out of memory" in message
            if not out_of_memory and "command buffer" not in message.lower():
                raise
        # Raised outside the handler, because the traceback of the original error holds the tensors of the batch, and
        # with them the memory that a smaller batch needs.
        raise DeviceOutOfMemory(message) if out_of_memory else DeviceFailed(message)
