"""The outcomes of requests: each entry is settled exactly once, and counted."""

from collections import Counter
from collections.abc import Sequence

from poolservice_server.batcher.queue_entry import QueueEntry
from poolservice_server.batcher.refusals import DeadlinePassed, Draining
from poolservice_server.batcher.request import Completed, RunResult
from poolservice_server.stop import WorkStopped

BatchOutcomes = Sequence[RunResult | Exception]


class Outcomes:
    """The counts of outcomes, and the methods that settle entries. Only the event loop uses it.

    Attributes:
        completed, failed, expired, cancelled: number of requests with each outcome.
        drops: number of requests that were dropped while they waited, by reason: deadline, cancelled or stopping.
        batches: batches that have started.
        batched_requests: requests in those batches.
        stopped: batches and preparations that ended early, because nobody waited for them any more.
    """

    def __init__(self) -> None:
        self.completed = self.failed = self.expired = self.cancelled = 0
        self.batches = self.batched_requests = self.stopped = 0
        self.drops: Counter[str] = Counter()
        self._last_batch = 0

    def settle(
        self,
        batch: Sequence[QueueEntry],
        started: float,
        outcomes: BatchOutcomes,
        seconds: float,
        prepare_seconds: float = 0.0,
    ) -> None:
        """Settle the entries of a batch that ran and release their permits.

        Entries that were cancelled or expired while the batch ran are settled already and only release their permits.

        Args:
            batch: the entries.
            started: when the work on a thread started: the preparation, if there was one, otherwise the batch.
            outcomes: the outcome of each entry.
            seconds: how long the batch took.
            prepare_seconds: how long the preparation took before it, if there was one.
        """
        number = self._last_batch = self._last_batch + 1
        compute_started = started + prepare_seconds
        share = seconds / len(batch)
        if isinstance(outcomes[0], WorkStopped):
            self.stopped += 1
        for entry, outcome in zip(batch, outcomes, strict=True):
            if not entry.done():
                if isinstance(outcome, Exception):
                    self.failed += 1
                    # A future accepts every exception except StopIteration.
                    stop = isinstance(outcome, StopIteration)
                    entry.set_exception(RuntimeError("the request raised StopIteration") if stop else outcome)
                else:
                    self.completed += 1
                    entry.set_result(
                        Completed(
                            outcome.result,
                            outcome.device,
                            outcome.batch_size,
                            started - entry.arrived,
                            seconds,
                            prepare_seconds,
                            compute_started,
                            number,
                            started if prepare_seconds else 0.0,
                            share,
                        )
                    )
            entry.permit.release_after_work()

    def expire(self, entry: QueueEntry) -> None:
        """Settle an entry whose deadline has passed."""
        self.expired += 1
        self._count_drop(entry, "deadline")
        entry.set_exception(DeadlinePassed())

    def cancel(self, entry: QueueEntry) -> None:
        """Count an entry whose caller left, which has settled it."""
        self.cancelled += 1
        self._count_drop(entry, "cancelled")

    def abandon(self, entry: QueueEntry) -> None:
        """Settle an entry that will not be finished, because the server stops."""
        self.failed += 1
        self._count_drop(entry, "stopping")
        entry.set_exception(Draining())

    def _count_drop(self, entry: QueueEntry, reason: str) -> None:
        if entry.queue is not None:
            self.drops[reason] += 1
