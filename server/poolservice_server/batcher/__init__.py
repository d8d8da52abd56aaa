"""Who runs with whom, and when. Knows neither grpc nor torch: a payload is whatever the runner takes."""

from poolservice_server.batcher.admission import Place
from poolservice_server.batcher.batcher import Batcher
from poolservice_server.batcher.snapshot import Snapshot
from poolservice_server.batcher.work import Computed, DeadlinePassed, Draining, QueueFull, Ran, Runner, Work

__all__ = [
    "Batcher",
    "Computed",
    "DeadlinePassed",
    "Draining",
    "Place",
    "QueueFull",
    "Ran",
    "Runner",
    "Snapshot",
    "Work",
]
