"""What the batcher has counted, for whoever shows it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What has been counted, and what is here now.

    Attributes:
        accepted: items that were admitted.
        refused: items that were not, for want of room or while draining.
        completed: items that were answered.
        failed: items whose outcome was an exception of the runner's.
        expired: items whose deadline passed.
        cancelled: items whose caller left.
        batches: by size, how many ran.
        inline_batches: how many of those ran on the event loop.
        queued_requests: items in the line.
        admitted_requests: items that are here, waiting or running.
        admitted_bytes: bytes that they hold.
        requests_per_second: the pace at which items were worked off while there was work.
        bytes_per_second: the same in bytes.
    """

    accepted: int
    refused: int
    completed: int
    failed: int
    expired: int
    cancelled: int
    batches: dict[int, int]
    inline_batches: int
    queued_requests: int
    admitted_requests: int
    admitted_bytes: int
    requests_per_second: float
    bytes_per_second: float
