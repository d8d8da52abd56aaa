"""Admission, queueing and batching of requests, without any knowledge of gRPC or torch.

A payload is whatever the runner accepts.
"""

from poolservice_server.batcher.admission import Limits, Permit
from poolservice_server.batcher.batcher import Batcher
from poolservice_server.batcher.quotas import Quotas
from poolservice_server.batcher.refusals import DeadlinePassed, Draining, QueueFull, QuotaExceeded
from poolservice_server.batcher.request import Completed, Request, Runner, RunResult
from poolservice_server.batcher.snapshot import Snapshot

__all__ = [
    "Batcher",
    "Completed",
    "DeadlinePassed",
    "Draining",
    "Limits",
    "Permit",
    "QueueFull",
    "QuotaExceeded",
    "Quotas",
    "Request",
    "RunResult",
    "Runner",
    "Snapshot",
]
