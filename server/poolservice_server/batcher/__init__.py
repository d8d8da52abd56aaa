"""Admission, queueing and batching of requests, without any knowledge of gRPC or torch.

A payload is whatever the runner accepts.
"""

from poolservice_server.batcher.admission import Permit
from poolservice_server.batcher.batcher import Batcher
from poolservice_server.batcher.request import (
    Completed,
    DeadlinePassed,
    Draining,
    QueueFull,
    Request,
    Runner,
    RunResult,
)
from poolservice_server.batcher.snapshot import Snapshot

__all__ = [
    "Batcher",
    "Completed",
    "DeadlinePassed",
    "Draining",
    "Permit",
    "QueueFull",
    "Request",
    "RunResult",
    "Runner",
    "Snapshot",
]
