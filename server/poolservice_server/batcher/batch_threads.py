"""The threads that run batches, one batch per slot."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from poolservice_server.batcher.execution import run_batch
from poolservice_server.batcher.outcomes import BatchOutcomes
from poolservice_server.batcher.queue import Queue
from poolservice_server.batcher.queue_entry import QueueEntry, nobody_waits
from poolservice_server.batcher.request import Runner
from poolservice_server.batcher.slots import Slots

SettleBatch = Callable[[list[QueueEntry], float, BatchOutcomes, float], None]


class BatchThreads:
    """Runs batches on threads and reports their outcomes on the event loop.

    Args:
        run: runs a batch.
        slots: the slots that the batches take.
        settle: called with a batch that ended, the time when it started, its outcomes, and the seconds it took.
        on_free: called with the loop when a slot has become free and its batch is settled.
    """

    def __init__(
        self,
        run: Runner,
        slots: Slots[QueueEntry],
        *,
        settle: SettleBatch,
        on_free: Callable[[asyncio.AbstractEventLoop], None],
    ) -> None:
        self._run = run
        self._slots = slots
        self._settle = settle
        self._on_free = on_free
        self._threads = ThreadPoolExecutor(slots.threads, thread_name_prefix="batch")
        # By the number of their first entry.
        self._running: dict[int, list[QueueEntry]] = {}

    def start(
        self, loop: asyncio.AbstractEventLoop, queue: Queue[QueueEntry], batch: list[QueueEntry], started: float
    ) -> None:
        """Run a batch that was taken from one of the slots' queues."""
        is_long = self._slots.start(queue)
        self._running[batch[0].number] = batch
        self._threads.submit(self._run_batch, loop, batch, is_long, started)

    def running(self) -> Iterator[QueueEntry]:
        """Return the entries of the batches that run."""
        for batch in self._running.values():
            yield from batch

    def shutdown(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=False)

    def _run_batch(
        self, loop: asyncio.AbstractEventLoop, batch: list[QueueEntry], is_long: bool, started: float
    ) -> None:
        payloads = [entry.request.payload for entry in batch]
        stop = partial(nobody_waits, batch)
        outcomes, seconds = run_batch(self._run, batch[0].request.key, payloads, stop, caught=BaseException)
        loop.call_soon_threadsafe(self._end_batch, loop, batch, is_long, started, outcomes, seconds)

    def _end_batch(
        self,
        loop: asyncio.AbstractEventLoop,
        batch: list[QueueEntry],
        is_long: bool,
        started: float,
        outcomes: BatchOutcomes,
        seconds: float,
    ) -> None:
        del self._running[batch[0].number]
        self._slots.end(is_long=is_long)
        self._settle(batch, started, outcomes, seconds)
        self._on_free(loop)
