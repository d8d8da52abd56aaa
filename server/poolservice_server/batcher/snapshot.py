"""The batcher's counters at one moment, for the metrics."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Counters since the start, and what the batcher holds now.

    Attributes:
        accepted: requests that were admitted.
        refused: requests that were not admitted, because of the limits or because the batcher was draining.
        completed: requests that ran.
        failed: requests whose outcome was an exception from the runner or from their preparation, or that were
            abandoned when the server stopped.
        expired: requests whose deadline passed.
        cancelled: requests whose caller left.
        batches: batches that ran or run; an unbatched request is a batch of one.
        batched_requests: requests in those batches.
        stopped: batches and preparations that ended early, because nobody waited for them any more.
        drops: requests that were dropped while they waited, by reason: deadline, cancelled or stopping.
        queue_entries: requests that wait for a slot.
        queue_bytes: size of their payloads and results.
        admitted_requests: requests that wait or run, or whose responses are not built yet.
        admitted_bytes: memory that those requests and unsent responses need.
        admitted_seconds: their estimated seconds of work that has not ended.
    """

    accepted: int
    refused: int
    completed: int
    failed: int
    expired: int
    cancelled: int
    batches: int
    batched_requests: int
    stopped: int
    drops: Mapping[str, int]
    queue_entries: int
    queue_bytes: int
    admitted_requests: int
    admitted_bytes: int
    admitted_seconds: float
