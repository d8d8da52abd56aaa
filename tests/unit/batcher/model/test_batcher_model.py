"""The batcher against a model of it: arrivals, cancellations, deadlines, failures and a drain in any order."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from poolservice_server.batcher import Batcher, Completed, DeadlinePassed, QueueFull, QuotaExceeded, Request
from poolservice_server.batcher.cost_model import CostModel

if TYPE_CHECKING:
    from tests.unit.batcher.model.conftest import Batch, Behavior, Model, Runner

T = TypeVar("T")


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock only moves when the test moves it."""

    now = 1000.0

    def time(self) -> float:
        return self.now


class BatcherMachine(RuleBasedStateMachine):
    """Between two steps, runs the batcher's loop until it has nothing left to do."""

    def __init__(
        self,
        new_model: "Callable[[float, Callable[[], float]], Model]",
        new_runner: "Callable[[], Runner]",
        seconds: dict[str, float],
    ) -> None:
        super().__init__()
        self._seconds = seconds
        self._new_model = new_model
        self._new_runner = new_runner

    @initialize(delay=st.sampled_from([0.0, 0.0, 5.0]))
    def start(self, delay: float) -> None:
        self.loop = VirtualLoop()
        self.errors: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.errors.append(context))
        self.model = self._new_model(delay, self.loop.time)
        self.runner = self._new_runner()
        self.batcher = Batcher(
            self.runner,
            **self.model.limits._asdict(),
            max_batch_delay=delay,
            clock=self.loop.time,
        )
        self.started = 0
        self.stopped = 0
        self.burst_start = 0
        self.drain: asyncio.Task[None] | None = None

    # ---- steps

    @rule(
        burst=st.lists(
            st.tuples(
                st.sampled_from("aaabbc"),
                st.sampled_from(["one", "two", "three"]),
                st.sampled_from([5, 30, 150, 390, 500]),
                st.sampled_from([None, 1.0, 3.0, 20.0]),
                st.sampled_from(["succeeds", "succeeds", "succeeds", "fails", "fails the batch", "loses an outcome"]),
                st.booleans(),
            ),
            min_size=1,
            max_size=8,
        ),
        stall=st.sampled_from([0.0, 0.0, 2.0]),
    )
    def arrive(self, burst: "list[tuple[str, str, int, float | None, Behavior, bool]]", stall: float) -> None:
        async def submit_all() -> None:
            self.burst_start = len(self.model.requests)
            for key, caller, nbytes, patience, behavior, reserved in burst:
                # With a batch delay, several callers would be served in an order that the model does not know.
                name = "only" if self.model.delay else caller
                self._submit(key, name, nbytes, patience, behavior, reserved=reserved)
            arrived = len(self.model.requests) - self.burst_start
            if arrived:
                self.model.last_was_single = arrived == 1
            # Something else keeps the loop busy before the batcher dispatches.
            self._move_clock(stall)

        self._do(submit_all())

    @rule(nbytes=st.sampled_from([5, 390]), caller=st.sampled_from(["one", "four"]))
    def reserve(self, nbytes: int, caller: str) -> None:
        permit = self._if_admitted(nbytes, caller, lambda: self.batcher.reserve(nbytes, caller))
        if permit is not None:
            self.model.open_permits.append((permit, nbytes, caller))
            self.model.reserved += 1

    @precondition(lambda self: self.model.open_permits)
    @rule(index=st.integers(0))
    def release_permit(self, index: int) -> None:
        with self.model.open_permits.pop(index % len(self.model.open_permits))[0]:
            pass

    @precondition(lambda self: self.model.unsettled())
    @rule(index=st.integers(0))
    def cancel(self, index: int) -> None:
        unsettled = self.model.unsettled()
        request = unsettled[index % len(unsettled)]
        assert request.future.cancel()
        self.model.cancelled(request)
        self._do(asyncio.sleep(0))

    @rule(seconds=st.sampled_from([0.5, 2.0, 10.0]))
    def time_passes(self, seconds: float) -> None:
        self._move_clock(seconds)
        self._do(asyncio.sleep(0))
        for request in self.model.requests.values():
            assert not request.expired or isinstance(request.future.exception(), DeadlinePassed)

    @precondition(lambda self: self.model.running)
    @rule(index=st.integers(0))
    def batch_finishes(self, index: int) -> None:
        self._finish(self.model.running[index % len(self.model.running)])

    @precondition(lambda self: self.drain is None)
    @rule()
    def begin_to_drain(self) -> None:
        self.drain = self.loop.create_task(self.batcher.drain())
        self.model.draining = True
        self._do(asyncio.sleep(0))

    # ---- what always holds

    @invariant()
    def limits_hold(self) -> None:
        admitted, limits = self.model.admitted(), self.model.limits
        snapshot = self.batcher.snapshot()
        assert (snapshot.admitted_requests, snapshot.admitted_bytes) == (len(admitted), sum(admitted))
        assert snapshot.admitted_requests <= limits.max_queue_items
        assert snapshot.admitted_bytes <= limits.max_queue_bytes
        assert self.model.free_slots(is_long=False) >= 0
        assert sum(self.model.is_long(batch.key) for batch in self.model.running) <= limits.threads

    @invariant()
    def requests_wait_only_for_slots_or_the_batch_delay(self) -> None:
        limits = self.model.limits
        assert self.batcher.snapshot().queue_entries == len(self.model.waiting())
        for is_long in (False, True):
            waiting = self.model.waiting(is_long=is_long)
            if waiting and self.model.free_slots(is_long=is_long) > 0:
                assert not self.model.draining
                assert self.loop.now < waiting[0].arrived + self.model.delay
                assert all(len(self.model.batch_of(request)) < limits.max_batch_size for request in waiting)

    @invariant()
    def every_request_has_its_own_outcome(self) -> None:
        for request in self.model.requests.values():
            if not request.future.done():
                assert request.batch is None or request.batch in self.model.running
            elif request.cancelled:
                assert request.future.cancelled()
            elif request.expired:
                assert isinstance(request.future.exception(), DeadlinePassed)
            else:
                assert request.batch is not None
                self.model.check_outcome(request, request.batch)

    @invariant()
    def counts_add_up(self) -> None:
        requests = self.model.requests.values()
        snapshot = self.batcher.snapshot()
        settled = snapshot.completed + snapshot.failed + snapshot.expired + snapshot.cancelled
        assert settled == sum(request.future.done() for request in requests)
        assert snapshot.cancelled == sum(request.cancelled for request in requests)
        assert snapshot.expired == sum(request.expired for request in requests)
        assert snapshot.accepted == len(requests) + self.model.reserved
        assert snapshot.refused == self.model.refused
        assert snapshot.stopped == self.stopped
        assert snapshot.batched_requests == sum(request.batch is not None for request in requests)
        assert not self.errors

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        try:
            self._end()
        finally:
            # After a failure, no thread may keep waiting.
            for batch in self.model.running:
                batch.may_finish.set()
            self.loop.close()

    def _end(self) -> None:
        for permit, _, _ in self.model.open_permits:
            with permit:
                pass
        self.model.open_permits.clear()
        self.model.draining = True
        drain = self.drain or self.loop.create_task(self.batcher.drain())
        self._do(asyncio.sleep(0))
        while self.model.running:
            self._finish(self.model.running[0])
        self.loop.run_until_complete(drain)
        assert not self.model.unsettled()
        assert self.batcher.snapshot().admitted_requests == 0
        self.every_request_has_its_own_outcome()

    # ---- how a step is taken

    def _move_clock(self, seconds: float) -> None:
        self.loop.now += seconds
        self.model.time_passed()

    def _submit(
        self, key: str, caller: str, nbytes: int, patience: float | None, behavior: "Behavior", *, reserved: bool
    ) -> None:
        payload = self.model.payload(behavior)
        deadline = None if patience is None else self.loop.now + patience
        request = Request(key, payload, nbytes, deadline, caller, self._seconds[key])

        def submit() -> "asyncio.Future[Completed]":
            if not reserved:
                return self.batcher.submit(request)
            with self.batcher.reserve(nbytes, caller) as permit:
                return self.batcher.submit(request, permit)

        queue_was_empty = not self.model.waiting(is_long=False)
        future = self._if_admitted(nbytes, caller, submit)
        if future is None:
            return
        accepted = self.model.accepted(payload, key, caller, nbytes, deadline, future)
        if self.runner.inline:
            (batch,) = self.runner.inline
            self.runner.inline.clear()
            self.started += 1
            assert queue_was_empty
            first_of_iteration = len(self.model.requests) == self.burst_start + 1
            self.model.ran_immediately(accepted, batch, first_of_iteration=first_of_iteration)
        self.model.queue_changed()

    def _if_admitted(self, nbytes: int, caller: str, submit: Callable[[], T]) -> T | None:
        """Return what `submit` returns, or None if it refuses; the model says which of the two it should do."""
        expected = self.model.refusal(nbytes, caller)
        if expected is None:
            return submit()
        self.model.refused += 1
        with pytest.raises(expected) as refusal:
            submit()
        if isinstance(refusal.value, QueueFull | QuotaExceeded):
            assert 0 < refusal.value.retry_after <= 30
        return None

    def _do(self, step: Coroutine[Any, Any, Any]) -> None:
        """Take a step, run the loop until it is idle, and pass the batches that have started to the model."""

        async def take_step() -> None:
            await step
            for _ in range(4 * self.model.limits.max_queue_items):
                await asyncio.sleep(0)

        self.loop.run_until_complete(take_step())
        total = self.batcher.snapshot().batches
        inline, self.runner.inline = self.runner.inline, []
        on_threads = [self.runner.on_threads.get(timeout=60) for _ in range(total - self.started - len(inline))]
        self.started = total
        # Threads report their batches in any order.
        started = {batch.payloads[0].number: batch for batch in inline + on_threads}
        while started:
            first = min(started) if self.model.delay else self.model.next_to_run().number
            batch = started.pop(first)
            self.model.started(batch, inline=batch in inline)

    def _finish(self, batch: "Batch") -> None:
        admitted = self.batcher.snapshot().admitted_requests

        async def wait_until_released() -> None:
            # If all callers of a batch have left, no future announces its end.
            until = time.monotonic() + 30
            while self.batcher.snapshot().admitted_requests == admitted:
                assert time.monotonic() < until
                await asyncio.sleep(0)

        nobody_waits = all(self.model.requests[payload.number].future.done() for payload in batch.payloads)
        self.stopped += nobody_waits
        batch.may_finish.set()
        self.model.finished(batch)
        self._do(wait_until_released())
        assert batch.stopped is nobody_waits


# Before a failure is reported, hypothesis simplifies it, which takes far longer than a passing test.
@pytest.mark.timeout(900)
def test_the_batcher_behaves_as_its_model(
    new_model: "Callable[[float, Callable[[], float]], Model]",
    new_runner: "Callable[[], Runner]",
    seconds_of_keys: dict[str, float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Measured times would change the estimates, which decide what runs inline and in what order.
    monkeypatch.setattr(CostModel, "observe", lambda *_: None)

    class Machine(BatcherMachine):
        def __init__(self) -> None:
            super().__init__(new_model, new_runner, seconds_of_keys)

    run_state_machine_as_test(
        Machine,
        settings=settings(max_examples=60, stateful_step_count=40, deadline=None),
    )
