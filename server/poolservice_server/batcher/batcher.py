"""When a batch starts, where, and how its items are settled."""

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor

from poolservice_server.batcher.admission import Admission, Permit
from poolservice_server.batcher.cost_model import CostModel
from poolservice_server.batcher.deadlines import Deadlines
from poolservice_server.batcher.execution import ran, run_unbatched
from poolservice_server.batcher.inline_policy import InlinePolicy
from poolservice_server.batcher.outcomes import BatchOutcomes, Outcomes
from poolservice_server.batcher.queue import Queue, QueueEntry
from poolservice_server.batcher.request import Completed, DeadlinePassed, Request, Runner
from poolservice_server.batcher.snapshot import Snapshot

_NEVER = float("inf")


class Batcher:
    """Runs work in batches of equal keys. Lives on one event loop; its methods are called from there.

    The first item starts as soon as a slot is free, with everything of its group that has gathered behind it. A slot
    is free where fewer than `threads` batches run. Items that are soon done, as far as their kind is known, borrow the
    free slot to run on the event loop itself (see `InlinePolicy`). They never overtake older work. What is prepared where
    it runs (`submit_unbatched`) takes no slot and does not stand in line: it waits for the threads that prepare.

    Args:
        run: runs a batch.
        max_batch_size: items in a batch at most.
        max_batch_bytes: bytes in a batch at most; an item that has more by itself is a batch by itself.
        max_batch_seconds: seconds that a batch of a known kind runs at most, so that the concurrency share long work and its
            answers come as they are done; an item that takes more by itself is a batch by itself.
        max_batch_delay: seconds that an item waits for company while its batch is not full.
        max_queue_items: items that may be here at one time, waiting or running.
        max_queue_bytes: bytes that they may hold together.
        threads: batches that run at one time, beside what runs apart.
        inline_bytes, inline_seconds, unbatched_bytes: see `InlinePolicy`.
        clock: seconds, on the time base of the loop's timers.
    """

    def __init__(
        self,
        run: Runner,
        *,
        max_batch_size: int = 64,
        max_batch_bytes: int = 64 * 2**20,
        max_batch_seconds: float = _NEVER,
        max_batch_delay: float = 0.0,
        max_queue_items: int = 1024,
        max_queue_bytes: int = 512 * 2**20,
        threads: int = 1,
        inline_bytes: int = 0,
        inline_seconds: float = 0.001,
        unbatched_bytes: int = 256 * 1024,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._max_batch_seconds = max_batch_seconds
        self._max_batch_delay = max_batch_delay
        self._clock = clock
        self._admission = Admission(max_items=max_queue_items, max_bytes=max_queue_bytes, clock=clock)
        self._queue = Queue(max_batch_size=max_batch_size, max_batch_bytes=max_batch_bytes)
        self._cost_model = CostModel()
        self._inline_policy = InlinePolicy(
            self._cost_model, inline_bytes=inline_bytes, inline_seconds=inline_seconds, unbatched_bytes=unbatched_bytes
        )
        self._outcomes = Outcomes()
        self._deadlines = Deadlines(self._unsettled, self._expire, clock)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="batch")
        self._free_slots = threads
        # The batches that run on threads, by the number of their first item.
        self._running: dict[int, list[QueueEntry]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._dispatching = False
        self._delay_timer: asyncio.TimerHandle | None = None
        self._number = 0

    def reserve(self, nbytes: int) -> Permit:
        """Take room for work that is still being prepared, to be submitted later.

        Raises:
            QueueFull: there is not that much room now.
            Draining: nothing is taken any more.
            InvalidRequest: there never will be that much room.
        """
        return self._admission.admit(nbytes)

    def submit(self, work: Request, permit: Permit | None = None) -> asyncio.Future[Completed]:
        """Put work into the line.

        Args:
            work: what to run.
            permit: the room that was reserved for it; without one it is taken here.

        Returns:
            What becomes of it. To cancel it is to leave; its exceptions are DeadlinePassed and the runner's.

        Raises:
            QueueFull, Draining, InvalidRequest: as `reserve`.
            DeadlinePassed: its deadline has passed already.
        """
        now = self._clock()
        entry = self._enter(work, permit, now)
        loop = entry.get_loop()
        if self._inline_policy.arrive():
            loop.call_soon(self._inline_policy.end_turn)
        if self._runs_immediately(work):
            self._inline_policy.spend(self._run_inline([entry], now))
            return entry
        self._queue.join(entry)
        self._deadlines.watch(loop, work.deadline)
        self._dispatch_soon(loop)
        return entry

    def gains_from_batching(self, nbytes: int) -> bool:
        """Whether an item of this size is better run with others of its kind than by itself."""
        return self._max_batch_delay > 0 or self._inline_policy.gains_from_batching(nbytes)

    def submit_unbatched(self, work: Request, permit: Permit, threads: Executor) -> asyncio.Future[Completed]:
        """Run an item by itself on one of `threads`, which prepares it first: its payload's call gives the runner's.

        What has just been prepared is read from the caches of the processor that did so.

        Args:
            work: what to run, one that does not gain by company.
            permit: the room that was reserved for it.
            threads: where it is prepared.

        Returns, raises:
            As `submit`; what `work.payload` raises is its outcome.
        """
        entry = self._enter(work, permit, self._clock())
        loop = entry.get_loop()
        self._running[entry.number] = [entry]
        self._deadlines.watch(loop, work.deadline)
        threads.submit(self._run_unbatched, loop, entry)
        return entry

    async def drain(self) -> None:
        """Refuse new work, wait until all that was accepted is settled, and let the threads go."""
        self._admission.draining = True
        if self._loop is not None:
            self._dispatch_soon(self._loop)
        await self._admission.emptied()
        self._threads.shutdown(wait=False)
        self._deadlines.forget()

    def snapshot(self) -> Snapshot:
        """What has been counted until now."""
        admission, outcomes = self._admission, self._outcomes
        return Snapshot(
            accepted=admission.accepted,
            refused=admission.refused,
            completed=outcomes.completed,
            failed=outcomes.failed,
            expired=outcomes.expired,
            cancelled=outcomes.cancelled,
            batches=dict(outcomes.batches),
            inline_batches=outcomes.inline_batches,
            queued_requests=len(self._queue),
            admitted_requests=admission.items,
            admitted_bytes=admission.nbytes,
            requests_per_second=admission.requests_per_second,
            bytes_per_second=admission.bytes_per_second,
        )

    def _enter(self, work: Request, permit: Permit | None, now: float) -> QueueEntry:
        if work.deadline is not None and work.deadline <= now:
            self._outcomes.expired += 1
            raise DeadlinePassed
        if permit is None:
            permit = self._admission.admit(work.nbytes)
        else:
            permit.acquire()
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        self._number += 1
        return QueueEntry(work, permit, self._number, now, on_cancel=self._left, loop=loop)

    def _dispatch_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        # Not at once: the calls that came in with the same wake-up of the loop gather first.
        if not self._dispatching and self._free_slots:
            self._dispatching = True
            loop.call_soon(self._dispatch, loop)

    def _dispatch(self, loop: asyncio.AbstractEventLoop) -> None:
        self._dispatching = False
        while self._free_slots:
            now = self._clock()
            if self._deadlines.passed(now):
                self._deadlines.pass_by(loop)
            first = self._next(loop, now)
            if first is None:
                return
            room = self._inline_policy.room(first.work)
            if first.work.nbytes <= room:
                batch = self._queue.cut(first, room)
                self._run_inline(batch, now)
                # The loop gets a turn between two batches, so that calls come in and gather meanwhile.
                self._dispatch_soon(loop)
                return
            batch = self._queue.cut(first, self._cost_model.fitting(first.work.key, self._max_batch_seconds))
            self._outcomes.batches[len(batch)] += 1
            self._free_slots -= 1
            self._running[batch[0].number] = batch
            self._threads.submit(self._run_on_thread, loop, batch, now)

    def _runs_immediately(self, work: Request) -> bool:
        free = self._free_slots > 0 and not self._queue and not self._max_batch_delay
        return free and self._inline_policy.runs_immediately(work)

    def _next(self, loop: asyncio.AbstractEventLoop, now: float) -> QueueEntry | None:
        """The oldest item, or the oldest one whose group need not wait for company any longer."""
        oldest = self._queue.oldest()
        if oldest is None or not self._max_batch_delay or self._admission.draining:
            return oldest
        ripe_at = oldest.arrived + self._max_batch_delay
        if ripe_at <= now:
            return oldest
        full = self._queue.oldest_of_full_group()
        if full is None:
            if self._delay_timer is not None:
                self._delay_timer.cancel()
            self._delay_timer = loop.call_at(ripe_at, self._dispatch, loop)
        return full

    def _run_inline(self, batch: list[QueueEntry], started: float) -> float:
        self._outcomes.batches[len(batch)] += 1
        self._outcomes.inline_batches += 1
        outcomes, seconds = ran(self._run, batch[0].work.key, [entry.work.payload for entry in batch])
        self._settle(batch, started, outcomes, seconds)
        return seconds

    def _run_on_thread(self, loop: asyncio.AbstractEventLoop, batch: list[QueueEntry], started: float) -> None:
        payloads = [entry.work.payload for entry in batch]
        outcomes, seconds = ran(self._run, batch[0].work.key, payloads, caught=BaseException)
        loop.call_soon_threadsafe(self._finish, loop, batch, started, outcomes, seconds)

    def _run_unbatched(self, loop: asyncio.AbstractEventLoop, entry: QueueEntry) -> None:
        started = self._clock()
        outcomes: BatchOutcomes = [DeadlinePassed()]
        seconds = 0.0
        # Else its caller left or its deadline passed, and it has been told.
        if not entry.done():
            outcomes, seconds = run_unbatched(self._run, entry.work)
        loop.call_soon_threadsafe(self._finish_unbatched, entry, started, outcomes, seconds)

    def _finish(
        self,
        loop: asyncio.AbstractEventLoop,
        batch: list[QueueEntry],
        started: float,
        outcomes: BatchOutcomes,
        seconds: float,
    ) -> None:
        del self._running[batch[0].number]
        self._free_slots += 1
        self._settle(batch, started, outcomes, seconds)
        self._dispatch_soon(loop)

    def _finish_unbatched(self, entry: QueueEntry, started: float, outcomes: BatchOutcomes, seconds: float) -> None:
        del self._running[entry.number]
        if not isinstance(outcomes[0], Exception):
            self._outcomes.batches[1] += 1
        self._settle([entry], started, outcomes, seconds)

    def _settle(self, batch: list[QueueEntry], started: float, outcomes: BatchOutcomes, seconds: float) -> None:
        if not isinstance(outcomes[0], Exception):
            nbytes = 0
            for entry in batch:
                nbytes += entry.work.nbytes
            self._cost_model.learn(batch[0].work.key, nbytes, seconds)
        self._outcomes.settle(batch, started, outcomes, seconds)
        self._admission.measure_pace()

    def _left(self, entry: QueueEntry) -> None:
        self._outcomes.cancelled += 1
        self._leave_line(entry)

    def _expire(self, entry: QueueEntry) -> None:
        self._outcomes.expire(entry)
        self._leave_line(entry)

    def _leave_line(self, entry: QueueEntry) -> None:
        # One that runs keeps its permit until its batch ends, since its memory is in use until then.
        if entry in self._queue:
            self._queue.leave(entry)
            entry.permit.release()

    def _unsettled(self) -> Iterator[QueueEntry]:
        yield from self._queue
        for batch in self._running.values():
            yield from batch
