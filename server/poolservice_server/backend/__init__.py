"""Where work runs: devices, and what to do when one fails. The only room beside pooling that knows torch."""

from poolservice_server.backend.policy import Backend
from poolservice_server.backend.selection import choose_backend, torch_version

__all__ = ["Backend", "choose_backend", "torch_version"]
