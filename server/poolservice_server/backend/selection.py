"""The selection of the devices that this process uses."""

import re

import structlog
import torch

from poolservice_server.backend.cpu import CpuDevice
from poolservice_server.backend.cuda import CudaDevice
from poolservice_server.backend.device import Device, NoDevice
from poolservice_server.backend.mps import MpsDevice
from poolservice_server.backend.policy import Backend

_log = structlog.get_logger(__name__)


def choose_backend(device: str = "auto", *, require_gpu: bool = False, max_batch_bytes: int = 64 * 2**20) -> Backend:
    """Open the requested device; the CPU is second in order of preference unless a GPU is required.

    Args:
        device: auto, cpu, cuda, cuda:N or mps; auto selects a GPU if one works, else the CPU.
        require_gpu: True to never run on the CPU.
        max_batch_bytes: the most bytes that run in one batch; a larger request runs in parts.

    Raises:
        NoDevice: the device does not exist or does not work.
    """
    gpu = _any_gpu(required=require_gpu) if device == "auto" else _gpu_named(device)
    if gpu is None:
        if require_gpu:
            raise NoDevice("a GPU is required, but the device is cpu; choose auto, cuda, cuda:N or mps")
        return Backend([CpuDevice()], max_batch_bytes=max_batch_bytes)
    return Backend([gpu] if require_gpu else [gpu, CpuDevice()], max_batch_bytes=max_batch_bytes)


def torch_version() -> str:
    """Return the version of the installed torch, with its build."""
    return str(torch.__version__)


def _any_gpu(*, required: bool) -> Device | None:
    try:
        return _checked(MpsDevice()) if torch.backends.mps.is_available() else _cuda(0)
    except NoDevice as error:
        if required:
            raise NoDevice(f"a GPU is required, but none can be used: {error}") from None
        # A machine without a GPU is normal; a GPU that cannot be used deserves a warning.
        if torch.cuda.is_available() or torch.backends.mps.is_available():
            _log.warning("the GPU cannot be used, running on the CPU", reason=str(error))
        return None


def _gpu_named(device: str) -> Device | None:
    """Open the GPU; return None for the CPU."""
    if device == "cpu":
        return None
    if device == "mps":
        if not torch.backends.mps.is_available():
            raise NoDevice("torch finds no Apple GPU on this machine, so there is no device mps; choose auto or cpu")
        return _checked(MpsDevice())
    cuda = re.fullmatch(r"cuda(?::(\d+))?", device)
    if cuda is None:
        raise NoDevice(f"there is no device {device!r}; choose auto, cpu, cuda, cuda:N or mps")
    return _cuda(int(cuda[1] or 0))


def _cuda(index: int) -> Device:
    if torch.version.cuda is None and torch.version.hip is None:
        raise NoDevice(
            f"the installed torch {torch.__version__} is built without CUDA; install a CUDA build of torch, or choose "
            "device auto or cpu"
        )
    if not torch.cuda.is_available():
        raise NoDevice(
            "torch finds no CUDA device on this machine: it has no GPU, no driver, or a driver that is too old; choose "
            "device auto or cpu"
        )
    count = torch.cuda.device_count()
    if index >= count:
        raise NoDevice(f"there is no device cuda:{index}; this machine has {count}, numbered from 0")
    try:
        return _checked(CudaDevice(index))
    except RuntimeError as error:
        raise NoDevice(f"device cuda:{index} cannot be opened: {error}") from None


def _checked(device: Device) -> Device:
    """Return the device if it computes correctly."""
    if not device.probe():
        raise NoDevice(
            f"device {device.name} ({device.description}) does not compute a known result correctly with torch "
            f"{torch.__version__}; its driver or this build of torch may not support it"
        )
    return device
