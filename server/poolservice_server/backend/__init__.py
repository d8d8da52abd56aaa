"""The devices that run batches, and the policy that uses them. Besides pooling, only this package imports torch."""

from poolservice_server.backend.policy import Backend
from poolservice_server.backend.selection import choose_backend, torch_version

__all__ = ["Backend", "choose_backend", "torch_version"]
