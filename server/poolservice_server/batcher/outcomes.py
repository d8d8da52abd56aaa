"""What became of each item: told to whoever waits for it, once, and counted."""

from collections import Counter
from collections.abc import Sequence

from poolservice_server.batcher.queue import QueueEntry
from poolservice_server.batcher.request import Completed, DeadlinePassed, RunResult

BatchOutcomes = Sequence[RunResult | Exception]


class Outcomes:
    """Settles entries and counts how. Used on the event loop only.

    Attributes:
        completed, failed, expired, cancelled: items by what became of them.
        batches: by size, how many ran.
        inline_batches: how many of those ran on the event loop.
    """

    def __init__(self) -> None:
        self.completed = self.failed = self.expired = self.cancelled = 0
        self.batches: Counter[int] = Counter()
        self.inline_batches = 0

    def settle(self, batch: Sequence[QueueEntry], started: float, outcomes: BatchOutcomes, seconds: float) -> None:
        """A batch ran: tell each of it, but for those who left or whose deadline passed: they have been told."""
        for entry, outcome in zip(batch, outcomes, strict=True):
            if not entry.done():
                if isinstance(outcome, Exception):
                    self.failed += 1
                    # A future takes any exception but the one that ends an iterator.
                    stop = isinstance(outcome, StopIteration)
                    entry.set_exception(RuntimeError("the item raised StopIteration") if stop else outcome)
                else:
                    self.completed += 1
                    entry.set_result(
                        Completed(outcome.result, outcome.device, outcome.batch_size, started - entry.arrived, seconds)
                    )
            entry.permit.release()

    def expire(self, entry: QueueEntry) -> None:
        """Its deadline passed."""
        self.expired += 1
        entry.set_exception(DeadlinePassed())
