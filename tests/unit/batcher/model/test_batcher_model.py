"""The batcher against a model of it: arrivals, departures, deadlines, failures and a drain in any order."""

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

from poolservice_server.batcher import Batcher, Completed, DeadlinePassed, QueueFull, Request

if TYPE_CHECKING:
    from tests.unit.batcher.model.conftest import Batch, Behaviour, Model, Runner

T = TypeVar("T")


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock stands still until it is moved."""

    now = 1000.0

    def time(self) -> float:
        return self.now


class BatcherMachine(RuleBasedStateMachine):
    """Runs the batcher's loop in between the steps until nothing is left to do without a further step."""

    def __init__(
        self, new_model: "Callable[[float, Callable[[], float]], Model]", new_runner: "Callable[[], Runner]"
    ) -> None:
        super().__init__()
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
            # Nothing is that quick: a kind that has run runs on threads, however small.
            inline_seconds=0.0,
            clock=self.loop.time,
        )
        self.started = 0
        self.burst_start = 0
        self.drain: asyncio.Task[None] | None = None

    # ---- steps

    @rule(
        burst=st.lists(
            st.tuples(
                st.sampled_from("abc"),
                st.sampled_from([5, 30, 150, 390, 500]),
                st.sampled_from([None, 1.0, 3.0, 20.0]),
                st.sampled_from(["answers", "answers", "answers", "fails", "fails all", "loses one"]),
                st.booleans(),
            ),
            min_size=1,
            max_size=8,
        ),
        stall=st.sampled_from([0.0, 0.0, 2.0]),
    )
    def arrive(self, burst: "list[tuple[str, int, float | None, Behaviour, bool]]", stall: float) -> None:
        async def submit_all() -> None:
            self.burst_start = len(self.model.items)
            for key, nbytes, patience, behaviour, reserved in burst:
                self._submit(key, nbytes, patience, behaviour, reserved=reserved)
            came = len(self.model.items) - self.burst_start
            if came:
                self.model.lonely = came == 1
            # Something holds the loop up before the batcher gets its turn.
            self._move_clock(stall)

        self._do(submit_all())

    @rule(nbytes=st.sampled_from([5, 390]))
    def reserve(self, nbytes: int) -> None:
        permit = self._admitted(nbytes, lambda: self.batcher.reserve(nbytes))
        if permit is not None:
            self.model.open_places.append((permit, nbytes))
            self.model.reserved += 1

    @precondition(lambda self: self.model.open_places)
    @rule(which=st.integers(0))
    def give_up_place(self, which: int) -> None:
        with self.model.open_places.pop(which % len(self.model.open_places))[0]:
            pass

    @precondition(lambda self: self.model.unsettled())
    @rule(which=st.integers(0))
    def leave(self, which: int) -> None:
        unsettled = self.model.unsettled()
        item = unsettled[which % len(unsettled)]
        assert item.future.cancel()
        self.model.left(item)
        self._do(asyncio.sleep(0))

    @rule(seconds=st.sampled_from([0.5, 2.0, 10.0]))
    def time_passes(self, seconds: float) -> None:
        self._move_clock(seconds)
        self._do(asyncio.sleep(0))
        for item in self.model.items.values():
            assert not item.expired or isinstance(item.future.exception(), DeadlinePassed)

    @precondition(lambda self: self.model.running)
    @rule(which=st.integers(0))
    def batch_finishes(self, which: int) -> None:
        self._finish(self.model.running[which % len(self.model.running)])

    @precondition(lambda self: self.drain is None)
    @rule()
    def begin_to_drain(self) -> None:
        self.drain = self.loop.create_task(self.batcher.drain())
        self.model.draining = True
        self._do(asyncio.sleep(0))

    # ---- what always holds

    @invariant()
    def bounds_hold(self) -> None:
        held, limits = self.model.held(), self.model.limits
        snapshot = self.batcher.snapshot()
        assert (snapshot.admitted_requests, snapshot.admitted_bytes) == (len(held), sum(held))
        assert snapshot.admitted_requests <= limits.max_queue_items
        assert snapshot.admitted_bytes <= limits.max_queue_bytes
        assert len(self.model.running) <= limits.threads

    @invariant()
    def work_does_not_wait_for_nothing(self) -> None:
        waiting, limits = self.model.waiting(), self.model.limits
        assert self.batcher.snapshot().queued_requests == len(waiting)
        if waiting and len(self.model.running) < limits.threads:
            assert not self.model.draining
            assert self.loop.now < waiting[0].arrived + self.model.delay
            assert all(len(self.model.company(item)) < limits.max_batch_size for item in waiting)

    @invariant()
    def everybody_has_the_own_answer(self) -> None:
        for item in self.model.items.values():
            if not item.future.done():
                assert item.batch is None or item.batch in self.model.running
            elif item.left:
                assert item.future.cancelled()
            elif item.expired:
                assert isinstance(item.future.exception(), DeadlinePassed)
            else:
                assert item.batch is not None
                self.model.check_outcome(item, item.batch)

    @invariant()
    def counts_add_up(self) -> None:
        items = self.model.items.values()
        snapshot = self.batcher.snapshot()
        settled = snapshot.completed + snapshot.failed + snapshot.expired + snapshot.cancelled
        assert settled == sum(item.future.done() for item in items)
        assert snapshot.cancelled == sum(item.left for item in items)
        assert snapshot.expired == sum(item.expired for item in items)
        assert snapshot.accepted == len(items) + self.model.reserved
        assert snapshot.refused == self.model.refused
        assert not self.errors

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        try:
            self._end()
        finally:
            # Whatever failed, no thread waits for more.
            for batch in self.model.running:
                batch.may_finish.set()
            self.loop.close()

    def _end(self) -> None:
        for permit, _ in self.model.open_places:
            with permit:
                pass
        self.model.open_places.clear()
        self.model.draining = True
        drain = self.drain or self.loop.create_task(self.batcher.drain())
        self._do(asyncio.sleep(0))
        while self.model.running:
            self._finish(self.model.running[0])
        self.loop.run_until_complete(drain)
        assert not self.model.unsettled()
        assert self.batcher.snapshot().admitted_requests == 0
        self.everybody_has_the_own_answer()

    # ---- how a step is taken

    def _move_clock(self, seconds: float) -> None:
        self.loop.now += seconds
        self.model.time_passed()

    def _submit(self, key: str, nbytes: int, patience: float | None, behaviour: "Behaviour", *, reserved: bool) -> None:
        payload = self.model.payload(behaviour)
        deadline = None if patience is None else self.loop.now + patience
        work = Request(key, payload, nbytes, deadline)

        def submit() -> "asyncio.Future[Completed]":
            if not reserved:
                return self.batcher.submit(work)
            with self.batcher.reserve(nbytes) as permit:
                return self.batcher.submit(work, permit)

        alone = not self.model.waiting()
        future = self._admitted(nbytes, submit)
        if future is None:
            return
        item = self.model.accepted(payload, key, nbytes, deadline, future)
        if self.runner.inline:
            (batch,) = self.runner.inline
            self.runner.inline.clear()
            self.started += 1
            assert alone
            self.model.ran_as_it_came(item, batch, first_of_its_turn=len(self.model.items) == self.burst_start + 1)

    def _admitted(self, nbytes: int, ask: Callable[[], T]) -> T | None:
        """What was asked for, if it was granted; whether it should be is what the model says."""
        expected = self.model.refusal(nbytes)
        if expected is None:
            return ask()
        self.model.refused += 1
        with pytest.raises(expected) as refusal:
            ask()
        if isinstance(refusal.value, QueueFull):
            assert 0 < refusal.value.retry_after <= 30
        return None

    def _do(self, step: Coroutine[Any, Any, Any]) -> None:
        """Take a step, give the loop the turns that it needs, and tell the model of the batches that started since."""

        async def take() -> None:
            await step
            for _ in range(4 * self.model.limits.max_queue_items):
                await asyncio.sleep(0)

        self.loop.run_until_complete(take())
        total = sum(self.batcher.snapshot().batches.values())
        inline, self.runner.inline = self.runner.inline, []
        on_threads = [self.runner.on_threads.get(timeout=60) for _ in range(total - self.started - len(inline))]
        self.started = total
        # Threads tell of their batches in any order; the order of the oldest items is the one that was due.
        for batch in sorted(inline + on_threads, key=lambda batch: batch.payloads[0].number):
            self.model.started(batch, inline=batch in inline)

    def _finish(self, batch: "Batch") -> None:
        held = self.batcher.snapshot().admitted_requests

        async def until_it_is_over() -> None:
            # Nobody is told of the end of a batch whose callers have all left.
            until = time.monotonic() + 30
            while self.batcher.snapshot().admitted_requests == held:
                assert time.monotonic() < until
                await asyncio.sleep(0)

        batch.may_finish.set()
        self.model.finished(batch)
        self._do(until_it_is_over())


# A failure is told when it has been made small, which takes far longer than to pass.
@pytest.mark.timeout(900)
def test_the_batcher_is_as_its_model_says(
    new_model: "Callable[[float, Callable[[], float]], Model]", new_runner: "Callable[[], Runner]"
) -> None:
    class Machine(BatcherMachine):
        def __init__(self) -> None:
            super().__init__(new_model, new_runner)

    run_state_machine_as_test(Machine, settings=settings(max_examples=60, stateful_step_count=40, deadline=None))
