"""An NVIDIA card, or one that torch drives in its name, as a device."""

import re
from collections.abc import Sequence

import numpy as np
import torch

from poolservice_server.backend import probe
from poolservice_server.backend.device import DeviceFailed, DeviceOutOfMemory
from poolservice_server.backend.stacking import pooled, split, stack, stack_pinned
from poolservice_server.pooling import run_on_tensors
from poolservice_server.pooling.interop import to_tensor
from poolservice_server.stages import PoolStage, SpecResult

_OUT_OF_MEMORY = re.compile(r"out of memory|CUBLAS_STATUS_ALLOC_FAILED")
_DEVICE_FAILURE = re.compile(r"\bCUDA (error|driver)|\bCUDNN|\bCUBLAS|\bNVML|No CUDA GPUs", re.IGNORECASE)

# torch raises this for an error of the device since 2.8, a plain RuntimeError before.
_ACCELERATOR_ERROR: type[RuntimeError] | None = getattr(torch, "AcceleratorError", None)


class CudaDevice:
    """Runs each batch through three streams, one each for copying in, computing and copying out.

    A batch is one copy to the device, its kernels, and one copy back for each of its outputs. Several threads run
    batches at a time, so that while one computes the next is copied in and the last one out.

    The buffers on the host's side are pinned, so that the copies run beside everything else; torch keeps them when
    they are given back, and hands them out again once the copies that used them are done.

    Args:
        index: the card's number.
        pinned: for measurements only: whether the host's buffers are pinned.
        overlapped: for measurements only: whether copies and kernels have streams of their own.
    """

    def __init__(self, index: int, *, pinned: bool = True, overlapped: bool = True) -> None:
        self.name = f"cuda:{index}"
        self._device = torch.device("cuda", index)
        self._pinned = pinned
        self.description = torch.cuda.get_device_name(self._device)
        streams = [torch.cuda.Stream(self._device) for _ in range(3)]
        self._copy_in, self._compute, self._copy_out = streams if overlapped else streams[:1] * 3

    def run(self, stage: PoolStage, items: Sequence[np.ndarray]) -> list[tuple[SpecResult, ...]]:
        """Run `stage` over `items`, copied to the device beside one another."""
        try:
            with torch.inference_mode(), torch.cuda.device(self._device):
                return split(self._run(stage, items), items)
        except RuntimeError as error:
            told = device_error(error)
            if told is None:
                raise
        # Not from within the handler: the error's traceback keeps the batch's tensors, and with them the memory that
        # a smaller batch needs.
        raise told

    def probe(self) -> bool:
        """Whether a known answer comes out right."""
        return probe.computes_correctly(self)

    def free_memory(self) -> None:
        """Give back what torch keeps of the card's memory."""
        torch.cuda.empty_cache()

    def _run(self, stage: PoolStage, items: Sequence[np.ndarray]) -> tuple[SpecResult, ...]:
        staging = stack_pinned(items) if self._pinned else to_tensor(stack(items))
        # What follows is only queued. Until all of it is done every tensor in it stays alive, since torch would give
        # its memory to the next batch of the stream that it was allocated on.
        try:
            with torch.cuda.stream(self._copy_in):
                planes = staging.to(self._device, non_blocking=True)
            self._compute.wait_event(self._copy_in.record_event())
            with torch.cuda.stream(self._compute):
                outputs = [
                    (values.contiguous(), None if indices is None else indices.contiguous())
                    for values, indices in run_on_tensors(stage, planes)
                ]
            self._copy_out.wait_event(self._compute.record_event())
            with torch.cuda.stream(self._copy_out):
                results = [
                    (self._fetch(values), None if indices is None else self._fetch(indices))
                    for values, indices in outputs
                ]
            # Other threads run meanwhile: this one sleeps, where it would spin by default.
            done = torch.cuda.Event(blocking=True)
            self._copy_out.record_event(done)
            done.synchronize()
        except BaseException:
            torch.cuda.synchronize(self._device)
            raise
        return pooled(results)

    def _fetch(self, output: torch.Tensor) -> torch.Tensor:
        """Queue the copy of an output to the host."""
        host = torch.empty(output.shape, dtype=output.dtype, pin_memory=self._pinned)
        return host.copy_(output, non_blocking=True)


def device_error(error: RuntimeError) -> DeviceOutOfMemory | DeviceFailed | None:
    """What `error`, which torch raised on a card, says of the device; None where it is the work that is at fault."""
    message = str(error).partition("\n")[0]
    if isinstance(error, torch.cuda.OutOfMemoryError) or _OUT_OF_MEMORY.search(message):
        return DeviceOutOfMemory(message)
    if (_ACCELERATOR_ERROR is not None and isinstance(error, _ACCELERATOR_ERROR)) or _DEVICE_FAILURE.search(message):
        return DeviceFailed(message)
    return None
