"""The interface of an engine: a network that is loaded on one device."""

from collections.abc import Sequence
from typing import Any, Protocol

from poolservice_server.backbones.folder_files import printable

# The longest message: a model file may hold names of any length.
_MAX_MESSAGE = 1000


class EngineError(Exception):
    """An engine cannot load or run a network. The message is one sentence about the backbone's folder.

    Names from the model file are part of it, so characters that cannot be printed are escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message[:_MAX_MESSAGE]))


class Engine(Protocol):
    """A network on one device. Several threads may run it at the same time."""

    name: str
    """onnxruntime or torch."""
    tensors: Sequence[str]
    """The names of the outputs that the network can give."""
    threads: int
    """The number of threads that compute one run on the CPU; on a GPU 1."""

    def run(self, samples: Any, tensors: Sequence[str]) -> list[Any]:
        """Run the network.

        Args:
            samples: normalized float32 samples (N, C, H, W): an array on the CPU, a torch tensor on a GPU.
            tensors: the names of the wanted outputs in the network.

        Returns:
            The outputs in this order, each with N as its first dimension: arrays on the CPU, tensors on a GPU.

        Raises:
            DeviceOutOfMemory: a smaller batch may fit.
            DeviceFailed: the device failed.
        """
        ...

    def close(self) -> None:
        """Release the memory."""
        ...


def first_line(error: Exception) -> str:
    """Return the first line of a library's error, or the error's type if it has no message."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def listed(names: Sequence[str], limit: int = 20) -> str:
    """Return the names for an error message, at most `limit` of them."""
    shown = ", ".join(name or '""' for name in names[:limit])
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown
