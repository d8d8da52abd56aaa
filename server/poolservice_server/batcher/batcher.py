"""The batcher: decides when each request runs, with which others, and whether on the event loop or on a thread."""

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor

from poolservice_server.batcher.admission import Admission, Permit
from poolservice_server.batcher.batch_threads import Slots
from poolservice_server.batcher.cost_model import CostModel
from poolservice_server.batcher.deadline_timer import Deadlines
from poolservice_server.batcher.execution import prepare, run_batch
from poolservice_server.batcher.inline_policy import InlinePolicy
from poolservice_server.batcher.outcomes import BatchOutcomes, Outcomes
from poolservice_server.batcher.queue import Queue, QueueEntry
from poolservice_server.batcher.request import Completed, DeadlinePassed, Request, Runner
from poolservice_server.batcher.snapshot import Snapshot

_NEVER = float("inf")


class Batcher:
    """A scheduler that runs requests in batches of equal keys. Call its methods from one event loop only.

    The oldest request starts as soon as a slot is free, together with the requests of its key that wait behind it.
    A slot is free while fewer than `threads` batches run on threads. While one is free, short batches run inline
    instead (see `InlinePolicy`); they never overtake older requests. A request that `prepare_and_run` leaves unbatched
    needs no slot and is not queued: it waits for the thread that prepares it.

    Args:
        run: runs a batch.
        max_batch_size: largest number of requests in a batch.
        max_batch_bytes: largest size of a batch; a request that is larger is a batch by itself.
        max_batch_seconds: longest time for a batch whose key has run before, so that slots share long work and
            responses are sent as they are ready; a request that takes longer is a batch by itself.
        max_batch_delay: seconds that a request waits for others of its key while they do not fill a batch.
        max_queue_items: largest number of requests that wait or run.
        max_queue_bytes: most memory that those requests may need together.
        threads: number of batches that run on threads at the same time.
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
        self._admission = Admission(max_requests=max_queue_items, max_bytes=max_queue_bytes, clock=clock)
        self._queue = Queue(max_batch_size=max_batch_size, max_batch_bytes=max_batch_bytes)
        self._cost_model = CostModel()
        self._inline_policy = InlinePolicy(
            self._cost_model, inline_bytes=inline_bytes, inline_seconds=inline_seconds, unbatched_bytes=unbatched_bytes
        )
        self._outcomes = Outcomes()
        self._deadlines = Deadlines(self._unsettled, self._expire, clock)
        self._slots = Slots(
            run,
            threads,
            clock,
            settle_batch=self._settle,
            settle_unbatched=self._settle_unbatched,
            on_free=self._dispatch_soon,
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._dispatch_scheduled = False
        self._delay_timer: asyncio.TimerHandle | None = None
        self._last_number = 0

    def reserve(self, nbytes: int) -> Permit:
        """Admit a request that is still being prepared.

        Raises:
            QueueFull: the limits do not allow it now.
            Draining: no new requests are admitted.
            InvalidRequest: the limits never allow it.
        """
        return self._admission.admit(nbytes)

    def count_unsent(self, nbytes: int) -> None:
        """Count the bytes of a response that is not sent yet, or with a negative number of one that is.

        They take part of `max_queue_bytes`, but the request is done: it does not count any more.
        """
        self._admission.nbytes += nbytes

    def submit(self, request: Request, permit: Permit | None = None) -> asyncio.Future[Completed]:
        """Queue a request, or run it immediately if it need not wait for others.

        Args:
            request: what to run.
            permit: the permit from `reserve`; without one, the request is admitted here.

        Returns:
            A future of the outcome: DeadlinePassed, an exception from the runner, or a result. Cancel it if the caller
            leaves.

        Raises:
            QueueFull, Draining, InvalidRequest: as `reserve`.
            DeadlinePassed: the request's deadline has passed already.
        """
        now = self._clock()
        entry = self._accept(request, permit, now)
        loop = entry.get_loop()
        if self._inline_policy.count_arrival():
            loop.call_soon(self._inline_policy.end_iteration)
        if self._runs_immediately(request):
            self._inline_policy.add_seconds(self._run_inline([entry], now))
            return entry
        self._queue.append(entry)
        self._deadlines.watch(loop, request.deadline)
        self._dispatch_soon(loop)
        return entry

    async def prepare_and_run(self, request: Request, permit: Permit, executor: Executor) -> Completed:
        """Prepare a request's payload on a thread of `executor`, then run it.

        A request that gains nothing from batching runs on the thread that prepared it, whose processor has the payload
        in its caches. Any other is submitted when it is prepared.

        Args:
            request: what to run; its payload is a callable that returns the payload for the runner.
            permit: the permit from `reserve`.
            executor: where the payload is prepared.

        Raises:
            DeadlinePassed: the request's deadline has passed.
            Exception: the preparation or the runner raised it.
        """
        if not self._max_batch_delay and not self._inline_policy.gains_from_batching(request.nbytes):
            entry = self._accept(request, permit, self._clock())
            loop = entry.get_loop()
            self._slots.start_unbatched(loop, entry, executor)
            self._deadlines.watch(loop, request.deadline)
            return await entry
        arrived = self._clock()
        loop = asyncio.get_running_loop()
        try:
            payload, prepare_seconds = await loop.run_in_executor(executor, prepare, request.payload)
        except asyncio.CancelledError:
            self._outcomes.cancelled += 1
            raise
        except Exception:
            self._outcomes.failed += 1
            raise
        wait_seconds = self._clock() - arrived - prepare_seconds
        prepared = Request(request.key, payload, request.nbytes, request.deadline)
        result, device, batch_size, queue_seconds, compute_seconds, _ = await self.submit(prepared, permit)
        return Completed(result, device, batch_size, queue_seconds + wait_seconds, compute_seconds, prepare_seconds)

    async def drain(self) -> None:
        """Refuse new requests, wait until every accepted one is settled, and let the threads end."""
        self._admission.draining = True
        if self._loop is not None:
            self._dispatch_soon(self._loop)
        await self._admission.wait_until_empty()
        self._slots.shutdown()
        self._deadlines.stop()

    def snapshot(self) -> Snapshot:
        """Return the counters as they are now."""
        admission, outcomes = self._admission, self._outcomes
        return Snapshot(
            accepted=admission.accepted,
            refused=admission.refused,
            completed=outcomes.completed,
            failed=outcomes.failed,
            expired=outcomes.expired,
            cancelled=outcomes.cancelled,
            batches=outcomes.batches,
            batched_requests=outcomes.batched_requests,
            queue_entries=len(self._queue),
            admitted_requests=admission.requests,
            admitted_bytes=admission.nbytes,
        )

    def _accept(self, request: Request, permit: Permit | None, now: float) -> QueueEntry:
        if request.deadline is not None and request.deadline <= now:
            self._outcomes.expired += 1
            raise DeadlinePassed
        if permit is None:
            permit = self._admission.admit(request.nbytes)
        else:
            permit.acquire()
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        self._last_number += 1
        return QueueEntry(request, permit, self._last_number, now, on_cancel=self._cancel, loop=loop)

    def _dispatch_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        # In a later callback, so that requests that arrive in the same loop iteration can join the batch.
        if not self._dispatch_scheduled and self._slots.free:
            self._dispatch_scheduled = True
            loop.call_soon(self._dispatch, loop)

    def _dispatch(self, loop: asyncio.AbstractEventLoop) -> None:
        self._dispatch_scheduled = False
        while self._slots.free:
            now = self._clock()
            if self._deadlines.has_passed(now):
                self._deadlines.expire_passed(loop)
            first = self._next_to_run(loop, now)
            if first is None:
                return
            request = first.request
            max_bytes = self._inline_policy.max_inline_bytes(request)
            if request.nbytes <= max_bytes:
                self._run_inline(self._queue.next_batch(first, max_bytes), now)
                # Between two inline batches the loop runs one iteration, in which new requests can arrive.
                self._dispatch_soon(loop)
                return
            max_bytes = self._cost_model.estimate_bytes(request.key, self._max_batch_seconds)
            batch = self._queue.next_batch(first, max_bytes)
            self._outcomes.batches += 1
            self._outcomes.batched_requests += len(batch)
            self._slots.start_batch(loop, batch, now)

    def _runs_immediately(self, request: Request) -> bool:
        free = self._slots.free > 0 and not self._queue and not self._max_batch_delay
        return free and self._inline_policy.runs_immediately(request)

    def _next_to_run(self, loop: asyncio.AbstractEventLoop, now: float) -> QueueEntry | None:
        """Return the oldest entry, or with a batch delay the oldest one that need not wait any longer."""
        oldest = self._queue.oldest()
        if oldest is None or not self._max_batch_delay or self._admission.draining:
            return oldest
        waits_until = oldest.arrived + self._max_batch_delay
        if waits_until <= now:
            return oldest
        full = self._queue.oldest_of_full_batch()
        if full is None:
            if self._delay_timer is not None:
                self._delay_timer.cancel()
            self._delay_timer = loop.call_at(waits_until, self._dispatch, loop)
        return full

    def _run_inline(self, batch: list[QueueEntry], started: float) -> float:
        self._outcomes.batches += 1
        self._outcomes.batched_requests += len(batch)
        outcomes, seconds = run_batch(self._run, batch[0].request.key, [entry.request.payload for entry in batch])
        self._settle(batch, started, outcomes, seconds)
        return seconds

    def _settle_unbatched(
        self, entry: QueueEntry, started: float, outcomes: BatchOutcomes, seconds: float, prepare_seconds: float
    ) -> None:
        if not isinstance(outcomes[0], Exception):
            self._outcomes.batches += 1
            self._outcomes.batched_requests += 1
        self._settle([entry], started, outcomes, seconds, prepare_seconds)

    def _settle(
        self,
        batch: list[QueueEntry],
        started: float,
        outcomes: BatchOutcomes,
        seconds: float,
        prepare_seconds: float = 0.0,
    ) -> None:
        if not isinstance(outcomes[0], Exception):
            nbytes = 0
            for entry in batch:
                nbytes += entry.request.nbytes
            self._cost_model.observe(batch[0].request.key, nbytes, seconds)
        self._outcomes.settle(batch, started, outcomes, seconds, prepare_seconds)
        self._admission.measure_throughput()

    def _cancel(self, entry: QueueEntry) -> None:
        self._outcomes.cancelled += 1
        self._remove_from_queue(entry)

    def _expire(self, entry: QueueEntry) -> None:
        self._outcomes.expire(entry)
        self._remove_from_queue(entry)

    def _remove_from_queue(self, entry: QueueEntry) -> None:
        # An entry that runs keeps its permit until its batch ends, because its memory is in use until then.
        if entry in self._queue:
            self._queue.remove(entry)
            entry.permit.release()

    def _unsettled(self) -> Iterator[QueueEntry]:
        yield from self._queue
        yield from self._slots.running()
