"""The batcher: decides when each request runs, with which others, and whether on the event loop or on a thread."""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from typing import TypeVar

from poolservice_server.batcher.admission import Admission, Limits, Permit
from poolservice_server.batcher.batch_threads import BatchThreads
from poolservice_server.batcher.cost_model import CostModel
from poolservice_server.batcher.deadline_timer import Deadlines
from poolservice_server.batcher.execution import run_batch
from poolservice_server.batcher.inline_policy import InlinePolicy
from poolservice_server.batcher.outcomes import BatchOutcomes, Outcomes
from poolservice_server.batcher.preparations import Preparation, Preparations, Prepared
from poolservice_server.batcher.queue import Queue
from poolservice_server.batcher.queue_entry import QueueEntry
from poolservice_server.batcher.quotas import Quotas
from poolservice_server.batcher.refusals import DeadlinePassed, Draining
from poolservice_server.batcher.request import Completed, Request, Runner
from poolservice_server.batcher.slots import Slots
from poolservice_server.batcher.snapshot import Snapshot
from poolservice_server.stop import never

_NEVER = float("inf")

_NO_QUOTAS = Quotas()

_Entry = TypeVar("_Entry", bound=QueueEntry)


class Batcher:
    """A scheduler that runs requests in batches of equal keys. Call its methods from one event loop only.

    As soon as a slot is free (see `Slots`), the next request starts in the order of `Queue`, together with the requests
    of its key that wait behind it. While a slot is free, short batches run inline instead (see `InlinePolicy`); they
    never overtake short requests that wait. A request that `prepare_and_run` leaves unbatched runs in the slot in which
    it was prepared.

    Args:
        run: runs a batch.
        max_batch_size: largest number of requests in a batch.
        max_batch_bytes: largest size of a batch; a request that is larger is a batch by itself.
        max_batch_seconds: longest time for a batch, so that slots share long work and responses are sent as they are
            ready; a request that takes longer is a batch by itself.
        max_batch_delay: seconds that a request waits for others of its key while they do not fill a batch.
        max_queue_items: largest number of requests that wait or run.
        max_queue_bytes: most memory that those requests and unsent responses may need together.
        quotas: the limits of each caller.
        threads: number of batches that run on threads at the same time; see `Slots`.
        prepare_threads: number of payloads that are prepared at the same time; see `Slots`.
        prepare_ahead_seconds: estimated seconds of short preparations that those threads are given ahead; see `Slots`.
        long_seconds: estimated seconds from which work must leave a slot to short work.
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
        quotas: Quotas = _NO_QUOTAS,
        threads: int = 1,
        prepare_threads: int = 1,
        prepare_ahead_seconds: float = 0.0,
        long_seconds: float = 0.05,
        inline_bytes: int = 0,
        inline_seconds: float = 0.001,
        unbatched_bytes: int = 256 * 1024,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._max_batch_seconds = max_batch_seconds
        self._max_batch_delay = max_batch_delay
        self._clock = clock
        self._admission = Admission(max_requests=max_queue_items, max_bytes=max_queue_bytes, quotas=quotas, clock=clock)
        self._cost_model = CostModel()
        self._inline_policy = InlinePolicy(
            self._cost_model, inline_bytes=inline_bytes, inline_seconds=inline_seconds, unbatched_bytes=unbatched_bytes
        )
        self._outcomes = Outcomes()
        self._deadlines = Deadlines(self._unsettled, self._expire, clock)
        self._slots: Slots[QueueEntry] = Slots(
            threads, long_seconds=long_seconds, max_batch_size=max_batch_size, max_batch_bytes=max_batch_bytes
        )
        self._batches = BatchThreads(run, self._slots, settle=self._settle, on_free=self._dispatch_soon)
        prepare_slots: Slots[Preparation] = Slots(
            prepare_threads, long_seconds=long_seconds, ahead_seconds=prepare_ahead_seconds
        )
        self._preparations = Preparations(run, prepare_slots, clock, self._settle_preparation)
        self._abandoned = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._dispatch_scheduled = False
        self._delay_timer: asyncio.TimerHandle | None = None
        self._last_number = 0

    def reserve(self, nbytes: int, caller: str = "", seconds: float = 0.0) -> Permit:
        """Admit a request that is to be submitted, or prepared.

        Args:
            nbytes: memory that the request needs until its response is built.
            caller: who sent it.
            seconds: its estimated seconds of work.

        Raises:
            QueueFull: the limits do not allow it now.
            QuotaExceeded: a quota of the caller does not allow it now.
            Draining: no new requests are admitted.
            InvalidRequest: the limits never allow it.
        """
        return self._admission.admit(nbytes, caller, seconds)

    def count_unsent(self, nbytes: int) -> None:
        """Count the bytes of a response that is not sent yet, or with a negative number of one that is.

        They take part of `max_queue_bytes`, but the request is done: it does not count any more.
        """
        self._admission.nbytes += nbytes

    def used_bytes(self) -> int:
        """Return the memory that admitted requests and unsent responses need now."""
        return self._admission.nbytes

    def submit(self, request: Request, permit: Permit | None = None) -> asyncio.Future[Completed]:
        """Queue a request, or run it immediately if it need not wait for others.

        Args:
            request: what to run.
            permit: the permit from `reserve`; without one, the request is admitted here.

        Returns:
            A future of the outcome: DeadlinePassed, an exception from the runner, or a result. Cancel it if the caller
            leaves.

        Raises:
            QueueFull, QuotaExceeded, Draining, InvalidRequest: as `reserve`.
            DeadlinePassed: the request's deadline has passed already.
        """
        now = self._clock()
        entry = self._accept(QueueEntry, request, permit, now)
        loop = entry.get_loop()
        if self._inline_policy.count_arrival():
            loop.call_soon(self._inline_policy.end_iteration)
        if self._runs_immediately(request):
            self._inline_policy.add_seconds(self._run_inline([entry], now))
            return entry
        self._slots.append(entry, self._cost_model.estimate(request))
        self._deadlines.watch(loop, request.deadline)
        self._dispatch_soon(loop)
        return entry

    async def prepare_and_run(self, request: Request, permit: Permit, executor: Executor) -> Completed:
        """Prepare a request's payload on a thread of `executor`, then run it.

        A request that gains nothing from batching, or must not be batched, runs on the thread that prepared it, whose
        processor has the payload in its caches. Any other is submitted when it is prepared.

        Args:
            request: what to run; its payload is a callable that gets `Stop` and returns the payload for the runner.
            permit: the permit from `reserve`.
            executor: where the payload is prepared. It needs a thread more than `prepare_threads`; see `Slots`.

        Raises:
            DeadlinePassed: the request's deadline has passed.
            Exception: the preparation or the runner raised it.
        """
        entry = self._accept(Preparation, request, permit, self._clock())
        entry.executor = executor
        entry.is_unbatched = request.is_unbatched or not (
            self._max_batch_delay or self._inline_policy.gains_from_batching(request.nbytes)
        )
        self._preparations.add(entry)
        self._deadlines.watch(entry.get_loop(), request.deadline)
        completed = await entry
        if entry.is_unbatched:
            return completed
        payload, wait_seconds = completed.result, completed.queue_seconds
        prepare_seconds, prepare_started = completed.prepare_seconds, completed.prepare_started
        del completed, entry
        completed = await self.submit(request._replace(payload=payload), permit)
        return completed._replace(
            queue_seconds=completed.queue_seconds + wait_seconds,
            prepare_seconds=prepare_seconds,
            prepare_started=prepare_started,
        )

    async def drain(self) -> None:
        """Refuse new requests, wait until every accepted one is settled, and let the threads end.

        Work that still runs although its callers have left is not waited for.
        """
        self._admission.draining = True
        if self._loop is not None:
            self._dispatch_soon(self._loop)
        await self._admission.wait_until_empty()
        self._batches.shutdown()
        self._deadlines.stop()

    def abandon(self) -> None:
        """Settle every request with Draining, so that the work that runs stops, and accept no further ones."""
        self._admission.draining = self._abandoned = True
        for entry in list(self._unsettled()):
            if not entry.done():
                self._outcomes.abandon(entry)
                self._remove_from_queue(entry)

    @property
    def limits(self) -> Limits:
        """The limits of all requests together."""
        return self._admission.limits

    @property
    def refusals(self) -> Mapping[str, int]:
        """The numbers of requests that were not admitted, by reason.

        The reasons are queue_requests, queue_bytes, request_bytes, caller_requests, caller_bytes, caller_seconds,
        caller_rate and stopping.
        """
        return self._admission.refusals

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
            stopped=outcomes.stopped,
            drops=outcomes.drops.copy(),
            queue_entries=self._slots.waiting() + self._preparations.waiting(),
            queue_bytes=self._slots.waiting_bytes() + self._preparations.waiting_bytes(),
            admitted_requests=admission.requests,
            admitted_bytes=admission.nbytes,
            admitted_seconds=admission.seconds,
        )

    def _accept(self, entry_type: type[_Entry], request: Request, permit: Permit | None, now: float) -> _Entry:
        if request.deadline is not None and request.deadline <= now:
            self._outcomes.expired += 1
            self._outcomes.drops["deadline"] += 1
            raise DeadlinePassed
        if self._abandoned:
            self._outcomes.failed += 1
            self._outcomes.drops["stopping"] += 1
            raise Draining
        if permit is None:
            permit = self._admission.admit(request.nbytes, request.caller, request.seconds)
        else:
            permit.acquire()
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        self._last_number += 1
        return entry_type(request, permit, self._last_number, now, on_cancel=self._cancel, loop=loop)

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
            queue, first = self._next_to_run(loop, now)
            if first is None:
                return
            request = first.request
            max_bytes = self._inline_policy.max_inline_bytes(request)
            if request.nbytes <= max_bytes:
                self._run_inline(queue.next_batch(first, max_bytes), now)
                # Between two inline batches the loop runs one iteration, in which new requests can arrive.
                self._dispatch_soon(loop)
                return
            max_bytes = self._cost_model.estimate_bytes(request, self._max_batch_seconds)
            batch = queue.next_batch(first, max_bytes)
            self._outcomes.batches += 1
            self._outcomes.batched_requests += len(batch)
            self._batches.start(loop, queue, batch, now)

    def _runs_immediately(self, request: Request) -> bool:
        slots = self._slots
        free = slots.free > 0 and not slots.short and not self._max_batch_delay
        return free and self._inline_policy.runs_immediately(request)

    def _next_to_run(self, loop: asyncio.AbstractEventLoop, now: float) -> tuple[Queue[QueueEntry], QueueEntry | None]:
        """Return the entry that runs next and its queue; with a batch delay, only if it need not wait any longer."""
        short = self._slots.short
        if not self._max_batch_delay and not self._slots.long:
            return short, short.first()
        wait_until = _NEVER
        for queue in self._slots.usable():
            oldest = queue.oldest()
            if oldest is None:
                continue
            due = oldest.arrived + self._max_batch_delay
            if due <= now or not self._max_batch_delay or self._admission.draining:
                return queue, queue.first()
            full = queue.oldest_of_full_batch()
            if full is not None:
                return queue, full
            wait_until = min(wait_until, due)
        if wait_until < _NEVER:
            if self._delay_timer is not None:
                self._delay_timer.cancel()
            self._delay_timer = loop.call_at(wait_until, self._dispatch, loop)
        return short, None

    def _run_inline(self, batch: list[QueueEntry], started: float) -> float:
        self._outcomes.batches += 1
        self._outcomes.batched_requests += len(batch)
        payloads = [entry.request.payload for entry in batch]
        # On the event loop, no caller can leave meanwhile.
        outcomes, seconds = run_batch(self._run, batch[0].request.key, payloads, never)
        self._settle(batch, started, outcomes, seconds)
        return seconds

    def _settle_preparation(self, entry: Preparation, prepared: Prepared) -> None:
        if prepared.outcomes:
            if not isinstance(prepared.outcomes[0], Exception):
                self._outcomes.batches += 1
                self._outcomes.batched_requests += 1
            self._settle([entry], prepared.started, prepared.outcomes, prepared.compute_seconds, prepared.seconds)
            return
        if not entry.done():
            wait_seconds = prepared.started - entry.arrived
            entry.set_result(
                Completed(
                    prepared.payload, "", 0, wait_seconds, 0.0, prepared.seconds, prepare_started=prepared.started
                )
            )
        # The work of a request that is batched goes on.
        entry.permit.release()

    def _settle(
        self,
        batch: Sequence[QueueEntry],
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
        self._admission.throughput.measure()

    def _cancel(self, entry: QueueEntry) -> None:
        self._outcomes.cancel(entry)
        self._remove_from_queue(entry)

    def _expire(self, entry: QueueEntry) -> None:
        self._outcomes.expire(entry)
        self._remove_from_queue(entry)

    def _remove_from_queue(self, entry: QueueEntry) -> None:
        if entry.queue is not None:
            entry.queue.remove(entry)
            entry.permit.release_after_work()
        else:
            # An entry that runs keeps its permit until its batch ends, because its memory is in use until then.
            entry.permit.mark_unwanted()

    def _unsettled(self) -> Iterator[QueueEntry]:
        yield from self._slots
        yield from self._batches.running()
        yield from self._preparations.unsettled()
