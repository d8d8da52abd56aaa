"""Which devices this process runs on."""

import re

import structlog
import torch

from poolservice_server.backend.cpu import CpuDevice
from poolservice_server.backend.cuda import CudaDevice
from poolservice_server.backend.device import Device, NoDevice
from poolservice_server.backend.mps import MpsDevice
from poolservice_server.backend.policy import Backend

_log = structlog.get_logger(__name__)


def choose_backend(asked: str = "auto", *, require_gpu: bool = False, max_batch_bytes: int = 64 * 2**20) -> Backend:
    """The devices that were asked for, behind the policy that uses them.

    Args:
        asked: auto, cpu, cuda, cuda:N or mps; auto takes a GPU if there is one that works.
        require_gpu: never run on the CPU.
        max_batch_bytes: bytes that run in one go at most; a request of more is run in parts.

    Raises:
        NoDevice: there is no such device here, or it does not work.
    """
    gpu = _any_gpu(required=require_gpu) if asked == "auto" else _named(asked)
    if gpu is None:
        if require_gpu:
            raise NoDevice("a GPU is required, and the CPU was asked for; ask for auto, cuda, cuda:N or mps")
        return Backend([CpuDevice()], max_batch_bytes=max_batch_bytes)
    return Backend([gpu] if require_gpu else [gpu, CpuDevice()], max_batch_bytes=max_batch_bytes)


def torch_version() -> str:
    """The installed torch, with its build."""
    return str(torch.__version__)


def _any_gpu(*, required: bool) -> Device | None:
    try:
        return _working(MpsDevice()) if torch.backends.mps.is_available() else _cuda(0)
    except NoDevice as error:
        if required:
            raise NoDevice(f"a GPU is required, and there is none to use: {error}") from None
        # A machine without a card is no surprise, a card that cannot be used is one.
        if torch.cuda.is_available() or torch.backends.mps.is_available():
            _log.warning("there is a GPU, but it cannot be used; running on the CPU", reason=str(error))
        return None


def _named(asked: str) -> Device | None:
    if asked == "cpu":
        return None
    if asked == "mps":
        if not torch.backends.mps.is_available():
            raise NoDevice("there is no Apple GPU here that torch can use, so no device mps; choose auto or cpu")
        return _working(MpsDevice())
    cuda = re.fullmatch(r"cuda(?::(\d+))?", asked)
    if cuda is None:
        raise NoDevice(f"there is no device {asked!r}; choose auto, cpu, cuda, cuda:N or mps")
    return _cuda(int(cuda[1] or 0))


def _cuda(index: int) -> Device:
    if torch.version.cuda is None and torch.version.hip is None:
        raise NoDevice(
            f"the installed torch {torch.__version__} is built without CUDA; install a CUDA build of torch, or choose "
            "device auto or cpu"
        )
    if not torch.cuda.is_available():
        raise NoDevice("torch finds no CUDA device here: no card, no driver, or one too old; choose device auto or cpu")
    count = torch.cuda.device_count()
    if index >= count:
        raise NoDevice(f"there is no device cuda:{index}; this machine has {count}, numbered from 0")
    try:
        return _working(CudaDevice(index))
    except RuntimeError as error:
        raise NoDevice(f"device cuda:{index} cannot be opened: {error}") from None


def _working(device: Device) -> Device:
    if not device.probe():
        raise NoDevice(
            f"device {device.name} ({device.description}) does not compute a known answer rightly with torch "
            f"{torch.__version__}; its driver or this build of torch may not support it"
        )
    return device
