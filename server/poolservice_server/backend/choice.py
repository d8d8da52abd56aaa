"""Which devices this process runs on."""

import re

import torch

from poolservice_server.backend.base import Device, NoDevice
from poolservice_server.backend.cpu import CpuDevice
from poolservice_server.backend.policy import Backend


def choose_backend(asked: str = "auto", *, require_gpu: bool = False, max_batch_bytes: int = 64 * 2**20) -> Backend:
    """The devices that were asked for, behind the policy that uses them.

    Args:
        asked: auto, cpu, cuda, cuda:N or mps; auto takes a GPU if there is one.
        require_gpu: never run on the CPU.
        max_batch_bytes: bytes that run in one go at most; a request of more is run in parts.

    Raises:
        NoDevice: it is not there.
    """
    gpu = _gpu(asked)
    if gpu is None:
        if require_gpu:
            raise NoDevice(
                f"a GPU is required, and device {asked!r} gives none: {_absence()}"
                if asked == "auto"
                else f"a GPU is required, and device {asked!r} is none; choose auto, cuda, cuda:N or mps"
            )
        return Backend([CpuDevice()], max_batch_bytes=max_batch_bytes)
    return Backend([gpu] if require_gpu else [gpu, CpuDevice()], max_batch_bytes=max_batch_bytes)


def torch_version() -> str:
    """The installed torch, with its build."""
    return str(torch.__version__)


def _gpu(asked: str) -> Device | None:
    cuda = re.fullmatch(r"cuda(?::(\d+))?", asked)
    if cuda is None and asked not in ("auto", "cpu", "mps"):
        raise NoDevice(f"there is no device {asked!r}; choose auto, cpu, cuda, cuda:N or mps")
    return None


def _absence() -> str:
    if torch.version.cuda is None:
        return f"the installed torch {torch.__version__} is built without CUDA"
    return "torch finds no CUDA device on this machine"
