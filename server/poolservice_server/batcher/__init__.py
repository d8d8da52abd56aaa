"""Who runs with whom, and when. Knows neither grpc nor torch: a payload is whatever the runner takes."""

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
