"""When a batch starts, where, and how its items are settled."""

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor

from poolservice_server.batcher.admission import Admission, Place
from poolservice_server.batcher.deadlines import Deadlines
from poolservice_server.batcher.ledger import Ledger, Outcomes
from poolservice_server.batcher.line import Line, Waiter
from poolservice_server.batcher.pace import Pace
from poolservice_server.batcher.run import ran, ran_apart
from poolservice_server.batcher.share import LoopShare
from poolservice_server.batcher.snapshot import Snapshot
from poolservice_server.batcher.work import DeadlinePassed, Ran, Runner, Work

_NEVER = float("inf")


class Batcher:
    """Runs work in batches of equal keys. Lives on one event loop; its methods are called from there.

    The first item starts as soon as a lane is free, with everything of its group that has gathered behind it. A lane
    is free where fewer than `threads` batches run. Items that are soon done, as far as their kind is known, borrow the
    free lane to run on the event loop itself (see `LoopShare`). They never overtake older work. What is prepared where
    it runs (`submit_apart`) takes no lane and does not stand in line: it waits for the threads that prepare.

    Args:
        run: runs a batch.
        max_batch_size: items in a batch at most.
        max_batch_bytes: bytes in a batch at most; an item that has more by itself is a batch by itself.
        max_batch_seconds: seconds that a batch of a known kind runs at most, so that the lanes share long work and its
            answers come as they are done; an item that takes more by itself is a batch by itself.
        max_batch_delay: seconds that an item waits for company while its batch is not full.
        max_queue_items: items that may be here at one time, waiting or running.
        max_queue_bytes: bytes that they may hold together.
        threads: batches that run at one time, beside what runs apart.
        inline_bytes, inline_seconds, solo_bytes: see `LoopShare`.
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
        solo_bytes: int = 256 * 1024,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._max_batch_seconds = max_batch_seconds
        self._max_batch_delay = max_batch_delay
        self._clock = clock
        self._admission = Admission(max_items=max_queue_items, max_bytes=max_queue_bytes, clock=clock)
        self._line = Line(max_batch_size=max_batch_size, max_batch_bytes=max_batch_bytes)
        self._pace = Pace()
        self._share = LoopShare(
            self._pace, inline_bytes=inline_bytes, inline_seconds=inline_seconds, solo_bytes=solo_bytes
        )
        self._ledger = Ledger()
        self._deadlines = Deadlines(self._unsettled, self._expire, clock)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="batch")
        self._free_lanes = threads
        # The batches that run on threads, by the number of their first item.
        self._running: dict[int, list[Waiter]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._dispatching = False
        self._company_timer: asyncio.TimerHandle | None = None
        self._number = 0

    def reserve(self, nbytes: int) -> Place:
        """Take room for work that is still being prepared, to be submitted later.

        Raises:
            QueueFull: there is not that much room now.
            Draining: nothing is taken any more.
            InvalidRequest: there never will be that much room.
        """
        return self._admission.admit(nbytes)

    def submit(self, work: Work, place: Place | None = None) -> asyncio.Future[Ran]:
        """Put work into the line.

        Args:
            work: what to run.
            place: the room that was reserved for it; without one it is taken here.

        Returns:
            What becomes of it. To cancel it is to leave; its exceptions are DeadlinePassed and the runner's.

        Raises:
            QueueFull, Draining, InvalidRequest: as `reserve`.
            DeadlinePassed: its deadline has passed already.
        """
        now = self._clock()
        waiter = self._enter(work, place, now)
        loop = waiter.get_loop()
        if self._share.arrive():
            loop.call_soon(self._share.end_turn)
        if self._runs_as_it_comes(work):
            self._share.spend(self._run_inline([waiter], now))
            return waiter
        self._line.join(waiter)
        self._deadlines.watch(loop, work.deadline)
        self._dispatch_soon(loop)
        return waiter

    def gains_by_company(self, nbytes: int) -> bool:
        """Whether an item of this size is better run with others of its kind than by itself."""
        return self._max_batch_delay > 0 or self._share.gains_by_company(nbytes)

    def submit_apart(self, work: Work, place: Place, threads: Executor) -> asyncio.Future[Ran]:
        """Run an item by itself on one of `threads`, which prepares it first: its payload's call gives the runner's.

        What has just been prepared is read from the caches of the processor that did so.

        Args:
            work: what to run, one that does not gain by company.
            place: the room that was reserved for it.
            threads: where it is prepared.

        Returns, raises:
            As `submit`; what `work.payload` raises is its outcome.
        """
        waiter = self._enter(work, place, self._clock())
        loop = waiter.get_loop()
        self._running[waiter.number] = [waiter]
        self._deadlines.watch(loop, work.deadline)
        threads.submit(self._run_apart, loop, waiter)
        return waiter

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
        admission, ledger = self._admission, self._ledger
        return Snapshot(
            accepted=admission.accepted,
            refused=admission.refused,
            completed=ledger.completed,
            failed=ledger.failed,
            expired=ledger.expired,
            cancelled=ledger.cancelled,
            batches=dict(ledger.batches),
            inline_batches=ledger.inline_batches,
            waiting_items=len(self._line),
            held_items=admission.items,
            held_bytes=admission.nbytes,
            items_per_second=admission.items_per_second,
            bytes_per_second=admission.bytes_per_second,
        )

    def _enter(self, work: Work, place: Place | None, now: float) -> Waiter:
        if work.deadline is not None and work.deadline <= now:
            self._ledger.expired += 1
            raise DeadlinePassed
        if place is None:
            place = self._admission.admit(work.nbytes)
        else:
            place.hold()
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        self._number += 1
        return Waiter(work, place, self._number, now, on_cancel=self._left, loop=loop)

    def _dispatch_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        # Not at once: the calls that came in with the same wake-up of the loop gather first.
        if not self._dispatching and self._free_lanes:
            self._dispatching = True
            loop.call_soon(self._dispatch, loop)

    def _dispatch(self, loop: asyncio.AbstractEventLoop) -> None:
        self._dispatching = False
        while self._free_lanes:
            now = self._clock()
            if self._deadlines.passed(now):
                self._deadlines.pass_by(loop)
            first = self._next(loop, now)
            if first is None:
                return
            room = self._share.room(first.work)
            if first.work.nbytes <= room:
                batch = self._line.cut(first, room)
                self._run_inline(batch, now)
                # The loop gets a turn between two batches, so that calls come in and gather meanwhile.
                self._dispatch_soon(loop)
                return
            batch = self._line.cut(first, self._pace.fitting(first.work.key, self._max_batch_seconds))
            self._ledger.batches[len(batch)] += 1
            self._free_lanes -= 1
            self._running[batch[0].number] = batch
            self._threads.submit(self._run_on_thread, loop, batch, now)

    def _runs_as_it_comes(self, work: Work) -> bool:
        free = self._free_lanes > 0 and not self._line and not self._max_batch_delay
        return free and self._share.takes_as_it_comes(work)

    def _next(self, loop: asyncio.AbstractEventLoop, now: float) -> Waiter | None:
        """The oldest item, or the oldest one whose group need not wait for company any longer."""
        oldest = self._line.oldest()
        if oldest is None or not self._max_batch_delay or self._admission.draining:
            return oldest
        ripe_at = oldest.arrived + self._max_batch_delay
        if ripe_at <= now:
            return oldest
        full = self._line.oldest_of_full_group()
        if full is None:
            if self._company_timer is not None:
                self._company_timer.cancel()
            self._company_timer = loop.call_at(ripe_at, self._dispatch, loop)
        return full

    def _run_inline(self, batch: list[Waiter], started: float) -> float:
        self._ledger.batches[len(batch)] += 1
        self._ledger.inline_batches += 1
        outcomes, seconds = ran(self._run, batch[0].work.key, [waiter.work.payload for waiter in batch])
        self._settle(batch, started, outcomes, seconds)
        return seconds

    def _run_on_thread(self, loop: asyncio.AbstractEventLoop, batch: list[Waiter], started: float) -> None:
        payloads = [waiter.work.payload for waiter in batch]
        outcomes, seconds = ran(self._run, batch[0].work.key, payloads, caught=BaseException)
        loop.call_soon_threadsafe(self._finish, loop, batch, started, outcomes, seconds)

    def _run_apart(self, loop: asyncio.AbstractEventLoop, waiter: Waiter) -> None:
        started = self._clock()
        outcomes: Outcomes = [DeadlinePassed()]
        seconds = 0.0
        # Else its caller left or its deadline passed, and it has been told.
        if not waiter.done():
            outcomes, seconds = ran_apart(self._run, waiter.work)
        loop.call_soon_threadsafe(self._finish_apart, waiter, started, outcomes, seconds)

    def _finish(
        self, loop: asyncio.AbstractEventLoop, batch: list[Waiter], started: float, outcomes: Outcomes, seconds: float
    ) -> None:
        del self._running[batch[0].number]
        self._free_lanes += 1
        self._settle(batch, started, outcomes, seconds)
        self._dispatch_soon(loop)

    def _finish_apart(self, waiter: Waiter, started: float, outcomes: Outcomes, seconds: float) -> None:
        del self._running[waiter.number]
        if not isinstance(outcomes[0], Exception):
            self._ledger.batches[1] += 1
        self._settle([waiter], started, outcomes, seconds)

    def _settle(self, batch: list[Waiter], started: float, outcomes: Outcomes, seconds: float) -> None:
        if not isinstance(outcomes[0], Exception):
            nbytes = 0
            for waiter in batch:
                nbytes += waiter.work.nbytes
            self._pace.learn(batch[0].work.key, nbytes, seconds)
        self._ledger.settle(batch, started, outcomes, seconds)
        self._admission.measure_pace()

    def _left(self, waiter: Waiter) -> None:
        self._ledger.cancelled += 1
        self._leave_line(waiter)

    def _expire(self, waiter: Waiter) -> None:
        self._ledger.expire(waiter)
        self._leave_line(waiter)

    def _leave_line(self, waiter: Waiter) -> None:
        # One that runs keeps its place until its batch ends, since its memory is in use until then.
        if waiter in self._line:
            self._line.leave(waiter)
            waiter.place.leave()

    def _unsettled(self) -> Iterator[Waiter]:
        yield from self._line
        for batch in self._running.values():
            yield from batch
