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
        waiting_items: items in the line.
        held_items: items that are here, waiting or running.
        held_bytes: bytes that they hold.
        items_per_second: the pace at which items were worked off while there was work.
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
    waiting_items: int
    held_items: int
    held_bytes: int
    items_per_second: float
    bytes_per_second: float
