"""The batcher's counters at one moment, for the metrics."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Counters since the start, and what the batcher holds now.

    Attributes:
        accepted: requests that were admitted.
        refused: requests that were not admitted, because of the limits or because the batcher was draining.
        completed: requests that ran.
        failed: requests whose outcome was an exception from the runner or from their preparation.
        expired: requests whose deadline passed.
        cancelled: requests whose caller left.
        batches: batches that ran or run; an unbatched request is a batch of one.
        batched_requests: requests in those batches.
        queue_entries: requests in the queue.
        admitted_requests: requests that wait or run.
        admitted_bytes: memory that those requests need.
    """

    accepted: int
    refused: int
    completed: int
    failed: int
    expired: int
    cancelled: int
    batches: int
    batched_requests: int
    queue_entries: int
    admitted_requests: int
    admitted_bytes: int
