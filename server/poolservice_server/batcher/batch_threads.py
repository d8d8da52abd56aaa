"""The slots in which batches run on threads, and the unbatched requests that run on the threads that prepare them."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor

from poolservice_server.batcher.execution import prepare_and_run, run_batch
from poolservice_server.batcher.outcomes import BatchOutcomes
from poolservice_server.batcher.queue import QueueEntry
from poolservice_server.batcher.request import DeadlinePassed, Runner

SettleBatch = Callable[[list[QueueEntry], float, BatchOutcomes, float], None]
SettleUnbatched = Callable[[QueueEntry, float, BatchOutcomes, float, float], None]


class Slots:
    """The threads that run batches, one batch per slot. Outcomes are reported on the event loop.

    Args:
        run: runs a batch.
        threads: number of slots.
        clock: seconds.
        settle_batch: called with a batch that ended, the time when it started, its outcomes, and the seconds it took.
        settle_unbatched: called with an entry that ended, the time when it started, its outcome, the seconds it took,
            and the seconds that its preparation took.
        on_free: called with the loop when a slot has become free and its batch is settled.

    Attributes:
        free: slots in which no batch runs.
    """

    def __init__(
        self,
        run: Runner,
        threads: int,
        clock: Callable[[], float],
        *,
        settle_batch: SettleBatch,
        settle_unbatched: SettleUnbatched,
        on_free: Callable[[asyncio.AbstractEventLoop], None],
    ) -> None:
        self.free = threads
        self._run = run
        self._clock = clock
        self._settle_batch = settle_batch
        self._settle_unbatched = settle_unbatched
        self._on_free = on_free
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="batch")
        # Batches, and unbatched requests as lists of one, by the number of their first entry.
        self._running: dict[int, list[QueueEntry]] = {}

    def start_batch(self, loop: asyncio.AbstractEventLoop, batch: list[QueueEntry], started: float) -> None:
        """Run a batch in a free slot."""
        self.free -= 1
        self._running[batch[0].number] = batch
        self._threads.submit(self._run_batch, loop, batch, started)

    def start_unbatched(self, loop: asyncio.AbstractEventLoop, entry: QueueEntry, executor: Executor) -> None:
        """Prepare and run a request on a thread of `executor`, without a slot."""
        self._running[entry.number] = [entry]
        executor.submit(self._run_unbatched, loop, entry)

    def running(self) -> Iterator[QueueEntry]:
        """Return the entries that run, or wait for a thread that prepares them."""
        for batch in self._running.values():
            yield from batch

    def shutdown(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=False)

    def _run_batch(self, loop: asyncio.AbstractEventLoop, batch: list[QueueEntry], started: float) -> None:
        payloads = [entry.request.payload for entry in batch]
        outcomes, seconds = run_batch(self._run, batch[0].request.key, payloads, caught=BaseException)
        loop.call_soon_threadsafe(self._end_batch, loop, batch, started, outcomes, seconds)

    def _run_unbatched(self, loop: asyncio.AbstractEventLoop, entry: QueueEntry) -> None:
        started = self._clock()
        outcomes: BatchOutcomes = [DeadlinePassed()]
        seconds = prepare_seconds = 0.0
        # If the entry is done, its caller left or its deadline passed while it waited for this thread.
        if not entry.done():
            outcomes, seconds, prepare_seconds = prepare_and_run(self._run, entry.request)
        loop.call_soon_threadsafe(self._end_unbatched, entry, started, outcomes, seconds, prepare_seconds)

    def _end_batch(
        self,
        loop: asyncio.AbstractEventLoop,
        batch: list[QueueEntry],
        started: float,
        outcomes: BatchOutcomes,
        seconds: float,
    ) -> None:
        del self._running[batch[0].number]
        self.free += 1
        self._settle_batch(batch, started, outcomes, seconds)
        self._on_free(loop)

    def _end_unbatched(
        self, entry: QueueEntry, started: float, outcomes: BatchOutcomes, seconds: float, prepare_seconds: float
    ) -> None:
        del self._running[entry.number]
        self._settle_unbatched(entry, started, outcomes, seconds, prepare_seconds)
