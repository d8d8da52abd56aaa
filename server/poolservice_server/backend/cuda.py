"""A CUDA GPU as a device, or a GPU of another vendor that torch drives through its CUDA interface."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from poolservice_server.backbone_stage import BackboneInput, BackboneResult, BackboneStage
from poolservice_server.backend import probe
from poolservice_server.backend.backbone_batch import BackboneBatch
from poolservice_server.backend.device import DeviceFailed, DeviceOutOfMemory
from poolservice_server.backend.stacking import split, stack, stack_pinned, to_results
from poolservice_server.pool_stage import PoolStage, SpecResult
from poolservice_server.pooling import run_on_tensors
from poolservice_server.pooling.array_types import TensorResult
from poolservice_server.pooling.interop import to_tensor
from poolservice_server.stop import Stop, never

if TYPE_CHECKING:
    from poolservice_server.backbones.engines.network import Network

_OUT_OF_MEMORY = re.compile(r"out of memory|CUBLAS_STATUS_ALLOC_FAILED")
_DEVICE_FAILURE = re.compile(r"\bCUDA (error|driver)|\bCUDNN|\bCUBLAS|\bNVML|No CUDA GPUs", re.IGNORECASE)

# torch raises this for errors of the device since 2.8; before, it raised a plain RuntimeError.
_ACCELERATOR_ERROR: type[RuntimeError] | None = getattr(torch, "AcceleratorError", None)


class CudaDevice:
    """Runs each batch through three streams: one for copying in, one for computing, one for copying out.

    A batch is one copy to the GPU, its kernels, and one copy back per output. Several threads run batches
    concurrently, so that one batch is computed while the next is copied in and the previous one is copied out.

    Host buffers are pinned, so that copies overlap with everything else. torch caches the pinned buffers and reuses
    them once the copies that use them are done.

    Measured in November 2026 on an H100 (16 Xeon cores, torch 2.11, three concurrent batches of images 3x224x224,
    max-pooled 2x2) with tests/bench/gpu.py: in batches of 64, 26,400 images/s, against 7,500 with pageable buffers and
    24,200 with a single stream; in batches of 8, 16,500 against 8,200 and 18,400.

    Args:
        index: the number of the GPU.
        pinned: for benchmarks only: whether the host buffers are pinned.
        overlapped: for benchmarks only: whether copies and kernels have separate streams.
    """

    def __init__(self, index: int, *, pinned: bool = True, overlapped: bool = True) -> None:
        self.name = f"cuda:{index}"
        self.torch_device = torch.device("cuda", index)
        self._pinned = pinned
        self.description = torch.cuda.get_device_name(self.torch_device)
        streams = [torch.cuda.Stream(self.torch_device) for _ in range(3)]
        self._copy_in, self._compute, self._copy_out = streams if overlapped else streams[:1] * 3
        self.networks: dict[str, Network] = {}

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
        torch.cuda.empty_cache()

    def memory(self) -> Mapping[str, int]:
        """Return the memory of torch's tensors, and what torch has reserved for these and further ones."""
        return {
            "allocated": torch.cuda.memory_allocated(self.torch_device),
            "reserved": torch.cuda.memory_reserved(self.torch_device),
        }

    def used_bytes(self) -> int:
        """Return the memory of torch's tensors at its peak since the previous call."""
        peak = torch.cuda.max_memory_allocated(self.torch_device)
        torch.cuda.reset_peak_memory_stats(self.torch_device)
        return peak

    def _run(
        self, payloads: Sequence[np.ndarray], compute: Callable[[torch.Tensor], list[TensorResult]]
    ) -> list[TensorResult]:
        """Copy the payloads to the GPU as one tensor, compute, and copy all results back."""
        try:
            with torch.inference_mode(), torch.cuda.device(self.torch_device):
                return self._run_in_streams(payloads, compute)
        except RuntimeError as error:
            failure = device_error(error)
            if failure is None:
                raise
        # Raised outside the handler, because the traceback of the original error holds the tensors of the batch, and
        # with them the memory that a smaller batch needs.
        raise failure

    def _run_in_streams(
        self, payloads: Sequence[np.ndarray], compute: Callable[[torch.Tensor], list[TensorResult]]
    ) -> list[TensorResult]:
        staging = stack_pinned(payloads) if self._pinned else to_tensor(stack(payloads))
        # The following calls only enqueue work. Every tensor must stay alive until all of it is done, because torch
        # would give its memory to the next batch on the stream that it was allocated on.
        try:
            with torch.cuda.stream(self._copy_in):
                stacked = staging.to(self.torch_device, non_blocking=True)
            self._compute.wait_event(self._copy_in.record_event())
            with torch.cuda.stream(self._compute):
                outputs = [
                    (values.contiguous(), None if indices is None else indices.contiguous())
                    for values, indices in compute(stacked)
                ]
            self._copy_out.wait_event(self._compute.record_event())
            with torch.cuda.stream(self._copy_out):
                fetched = [
                    (self._fetch(values), None if indices is None else self._fetch(indices))
                    for values, indices in outputs
                ]
            # A blocking event lets this thread sleep while others run; by default it would spin.
            done = torch.cuda.Event(blocking=True)
            self._copy_out.record_event(done)
            done.synchronize()
        except BaseException:
            torch.cuda.synchronize(self.torch_device)
            raise
        return fetched

    def _fetch(self, output: torch.Tensor) -> torch.Tensor:
        """Enqueue the copy of an output to the host."""
        host = torch.empty(output.shape, dtype=output.dtype, pin_memory=self._pinned)
        return host.copy_(output, non_blocking=True)


def device_error(error: RuntimeError) -> DeviceOutOfMemory | DeviceFailed | None:
    """Convert an error that torch raised on a GPU; return None if it is the fault of a payload."""
    message = str(error).partition("\n")[0]
    if isinstance(error, torch.cuda.OutOfMemoryError) or _OUT_OF_MEMORY.search(message):
        return DeviceOutOfMemory(message)
    if (_ACCELERATOR_ERROR is not None and isinstance(error, _ACCELERATOR_ERROR)) or _DEVICE_FAILURE.search(message):
        return DeviceFailed(message)
    return None
