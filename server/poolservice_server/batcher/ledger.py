"""What became of each item: told to whoever waits for it, once, and counted."""

from collections import Counter
from collections.abc import Sequence

from poolservice_server.batcher.line import Waiter
from poolservice_server.batcher.work import Computed, DeadlinePassed, Ran

Outcomes = Sequence[Computed | Exception]


class Ledger:
    """Settles waiters and counts how. Used on the event loop only.

    Attributes:
        completed, failed, expired, cancelled: items by what became of them.
        batches: by size, how many ran.
        inline_batches: how many of those ran on the event loop.
    """

    def __init__(self) -> None:
        self.completed = self.failed = self.expired = self.cancelled = 0
        self.batches: Counter[int] = Counter()
        self.inline_batches = 0

    def settle(self, batch: Sequence[Waiter], started: float, outcomes: Outcomes, seconds: float) -> None:
        """A batch ran: tell each of it, but for those who left or whose deadline passed: they have been told."""
        for waiter, outcome in zip(batch, outcomes, strict=True):
            if not waiter.done():
                if isinstance(outcome, Exception):
                    self.failed += 1
                    # A future takes any exception but the one that ends an iterator.
                    stop = isinstance(outcome, StopIteration)
                    waiter.set_exception(RuntimeError("the item raised StopIteration") if stop else outcome)
                else:
                    self.completed += 1
                    waiter.set_result(
                        Ran(outcome.result, outcome.device, outcome.batch_size, started - waiter.arrived, seconds)
                    )
            waiter.place.leave()

    def expire(self, waiter: Waiter) -> None:
        """Its deadline passed."""
        self.expired += 1
        waiter.set_exception(DeadlinePassed())
