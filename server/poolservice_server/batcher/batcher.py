"""When a batch starts, where, and how its items are settled."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from poolservice_server.batcher.admission import Admission, Place
from poolservice_server.batcher.line import Line, Waiter
from poolservice_server.batcher.pace import Pace
from poolservice_server.batcher.snapshot import Snapshot
from poolservice_server.batcher.work import Computed, DeadlinePassed, Ran, Runner, Work

# A timer of the event loop may fire this much too early.
_TIMER_GRAIN_SECONDS = 0.001

_NEVER = float("inf")


class Batcher:
    """Runs work in batches of equal keys. Lives on one event loop; its methods are called from there.

    The first item starts as soon as a lane is free, with everything of its group that has gathered behind it. A lane
    is free where fewer than `threads` batches run. Items that are soon done, as far as their kind is known, borrow the
    free lane to run on the event loop itself, as many at a time as it can be kept from everything else: handing them
    to a thread and back costs about as much as running them, and each step that they take there waits for its turn of
    Python's lock. They never overtake older work.

    Args:
        run: runs a batch.
        max_batch_size: items in a batch at most.
        max_batch_bytes: bytes in a batch at most; an item that has more by itself is a batch by itself.
        max_batch_seconds: seconds that a batch of a known kind runs at most, so that the lanes share long work and its
            answers come as they are done; an item that takes more by itself is a batch by itself.
        max_batch_delay: seconds that an item waits for company while its batch is not full.
        max_queue_items: items that may be here at one time, waiting or running.
        max_queue_bytes: bytes that they may hold together.
        threads: batches that run at one time.
        inline_bytes: bytes up to which a batch of a kind that has not run yet runs on the event loop; 0 for never any.
        inline_seconds: seconds that a batch of a known kind may keep the event loop from everything else; items that
            take more than half of it each run on threads.
        solo_bytes: bytes from which an item that may run on the event loop does so as it comes, before it has left the
            processor's caches, if nothing waits: to copy it beside others would take as long as a batch of its own.
            Beyond `inline_seconds` in one turn of the loop, it stands in line.
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
        self._inline_bytes = inline_bytes
        self._inline_seconds = inline_seconds
        self._solo_bytes = solo_bytes
        self._clock = clock
        self._admission = Admission(max_items=max_queue_items, max_bytes=max_queue_bytes, clock=clock)
        self._line = Line(max_batch_size=max_batch_size, max_batch_bytes=max_batch_bytes)
        self._pace = Pace()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="batch")
        self._free_lanes = threads
        # The batches that run on threads, by the number of their first item.
        self._running: dict[int, list[Waiter]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._dispatching = False
        self._company_timer: asyncio.TimerHandle | None = None
        self._expiry_timer: asyncio.TimerHandle | None = None
        self._next_expiry = _NEVER
        self._number = 0
        self._completed = self._failed = self._expired = self._cancelled = 0
        self._batches: Counter[int] = Counter()
        self._inline_batches = 0
        # What ran as it came since the loop's last turn.
        self._solo_seconds = 0.0

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
        deadline = work.deadline
        if deadline is not None and deadline <= now:
            self._expired += 1
            raise DeadlinePassed
        if place is None:
            place = self._admission.admit(work.nbytes)
        else:
            place.hold()
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        self._number += 1
        waiter = Waiter(work, place, self._number, now, on_cancel=self._left, loop=loop)
        if work.nbytes >= self._solo_bytes and self._runs_as_it_comes(work):
            if not self._solo_seconds:
                loop.call_soon(self._begin_turn)
            self._solo_seconds += self._run_inline([waiter], now)
            return waiter
        self._line.join(waiter)
        if deadline is not None and deadline < self._next_expiry:
            self._expire_at(loop, deadline)
        self._dispatch_soon(loop)
        return waiter

    async def drain(self) -> None:
        """Refuse new work, wait until all that was accepted is settled, and let the threads go."""
        self._admission.draining = True
        if self._loop is not None:
            self._dispatch_soon(self._loop)
        await self._admission.emptied()
        self._threads.shutdown(wait=False)
        if self._expiry_timer is not None:
            self._expiry_timer.cancel()

    def snapshot(self) -> Snapshot:
        """What has been counted until now."""
        admission = self._admission
        return Snapshot(
            accepted=admission.accepted,
            refused=admission.refused,
            completed=self._completed,
            failed=self._failed,
            expired=self._expired,
            cancelled=self._cancelled,
            batches=dict(self._batches),
            inline_batches=self._inline_batches,
            waiting_items=len(self._line),
            held_items=admission.items,
            held_bytes=admission.nbytes,
            items_per_second=admission.items_per_second,
            bytes_per_second=admission.bytes_per_second,
        )

    def _dispatch_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        # Not at once: the calls that came in with the same wake-up of the loop gather first.
        if not self._dispatching and self._free_lanes:
            self._dispatching = True
            loop.call_soon(self._dispatch, loop)

    def _dispatch(self, loop: asyncio.AbstractEventLoop) -> None:
        self._dispatching = False
        while self._free_lanes:
            now = self._clock()
            if now >= self._next_expiry:
                self._expire(loop)
            first = self._next(loop, now)
            if first is None:
                return
            room = self._inline_room(first.work)
            if first.work.nbytes <= room:
                batch = self._line.cut(first, room)
                self._run_inline(batch, now)
                # The loop gets a turn between two batches, so that calls come in and gather meanwhile.
                self._dispatch_soon(loop)
                return
            batch = self._line.cut(first, self._pace.fitting(first.work.key, self._max_batch_seconds))
            self._batches[len(batch)] += 1
            self._free_lanes -= 1
            self._running[batch[0].number] = batch
            self._threads.submit(self._run_on_thread, loop, batch, now)

    def _inline_room(self, work: Work) -> float:
        """How many bytes of its kind may run on the event loop in one go."""
        if not self._inline_bytes:
            return 0
        expected = self._pace.expect(work.key, work.nbytes)
        if expected is None:
            return self._inline_bytes
        return self._pace.fitting(work.key, self._inline_seconds) if 2 * expected < self._inline_seconds else 0

    def _runs_as_it_comes(self, work: Work) -> bool:
        free = self._free_lanes > 0 and not self._line and not self._max_batch_delay
        return free and self._solo_seconds <= self._inline_seconds and work.nbytes <= self._inline_room(work)

    def _begin_turn(self) -> None:
        self._solo_seconds = 0.0

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
        self._batches[len(batch)] += 1
        self._inline_batches += 1
        outcomes, seconds = self._compute(batch)
        self._settle(batch, started, outcomes, seconds)
        return seconds

    def _run_on_thread(self, loop: asyncio.AbstractEventLoop, batch: list[Waiter], started: float) -> None:
        try:
            outcomes, seconds = self._compute(batch)
        except BaseException as error:  # noqa: BLE001 - SystemExit and such would leave the batch without an end
            outcomes, seconds = [RuntimeError(f"the batch's runner ended with {error!r}")] * len(batch), 0.0
        loop.call_soon_threadsafe(self._finish, loop, batch, started, outcomes, seconds)

    def _compute(self, batch: list[Waiter]) -> tuple[Sequence[Computed | Exception], float]:
        """What the runner makes of a batch, whatever it does, and the seconds that it took."""
        started = time.perf_counter()
        try:
            outcomes = self._run(batch[0].work.key, [waiter.work.payload for waiter in batch])
            if len(outcomes) != len(batch):
                raise RuntimeError(f"a batch of {len(batch)} came back with {len(outcomes)} outcomes")
        except Exception as error:  # noqa: BLE001 - it is the outcome of each of them
            outcomes = [error] * len(batch)
        return outcomes, time.perf_counter() - started

    def _finish(
        self,
        loop: asyncio.AbstractEventLoop,
        batch: list[Waiter],
        started: float,
        outcomes: Sequence[Computed | Exception],
        seconds: float,
    ) -> None:
        del self._running[batch[0].number]
        self._free_lanes += 1
        self._settle(batch, started, outcomes, seconds)
        self._dispatch_soon(loop)

    def _settle(
        self, batch: list[Waiter], started: float, outcomes: Sequence[Computed | Exception], seconds: float
    ) -> None:
        if not isinstance(outcomes[0], Exception):
            self._pace.learn(batch[0].work.key, sum(waiter.work.nbytes for waiter in batch), seconds)
        for waiter, outcome in zip(batch, outcomes, strict=True):
            # One whose caller left or whose deadline passed meanwhile has been settled.
            if not waiter.done():
                if isinstance(outcome, Exception):
                    self._failed += 1
                    # A future takes any exception but the one that ends an iterator.
                    stop = isinstance(outcome, StopIteration)
                    waiter.set_exception(RuntimeError("the item raised StopIteration") if stop else outcome)
                else:
                    self._completed += 1
                    waiter.set_result(
                        Ran(outcome.result, outcome.device, outcome.batch_size, started - waiter.arrived, seconds)
                    )
            waiter.place.leave()
        self._admission.measure_pace()

    def _left(self, waiter: Waiter) -> None:
        self._cancelled += 1
        if waiter in self._line:
            self._line.leave(waiter)
            waiter.place.leave()

    def _expire_at(self, loop: asyncio.AbstractEventLoop, deadline: float) -> None:
        self._next_expiry = deadline
        if self._expiry_timer is not None:
            self._expiry_timer.cancel()
        self._expiry_timer = loop.call_at(deadline, self._expire, loop)

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        """Settle whose deadline has passed; one timer serves for all, set to the earliest of them."""
        now = self._clock() + _TIMER_GRAIN_SECONDS
        self._next_expiry = _NEVER
        earliest = _NEVER
        for waiter in itertools.chain(list(self._line), *self._running.values()):
            deadline = _NEVER if waiter.work.deadline is None else waiter.work.deadline
            if waiter.done():
                continue
            if deadline > now:
                earliest = min(earliest, deadline)
                continue
            self._expired += 1
            waiter.set_exception(DeadlinePassed())
            # One that runs keeps its place until its batch ends, since its memory is in use until then.
            if waiter in self._line:
                self._line.leave(waiter)
                waiter.place.leave()
        if earliest < _NEVER:
            self._expire_at(loop, earliest)
