"""The batcher against a model of it: arrivals, departures, deadlines, failures and a drain in any order."""

import asyncio
import itertools
import queue
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from poolservice_server.batcher import Batcher, DeadlinePassed, Draining, Place, QueueFull, Ran, Work

MAX_BATCH_SIZE = 4
MAX_BATCH_BYTES = 400
MAX_QUEUE_ITEMS = 12
MAX_QUEUE_BYTES = 1500
INLINE_BYTES = 40
SOLO_BYTES = 30
LANES = 2

T = TypeVar("T")
Behaviour = Literal["answers", "fails", "fails all", "loses one"]


class Answer(NamedTuple):
    result: Any
    device: str
    batch_size: int


class ItemFailed(Exception):
    pass


class BatchFailed(Exception):
    pass


class Payload(NamedTuple):
    number: int
    behaviour: Behaviour


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock stands still until it is moved."""

    now = 1000.0

    def time(self) -> float:
        return self.now


@dataclass(eq=False)
class Batch:
    """A batch that the runner was given."""

    key: str
    payloads: list[Payload]
    may_finish: threading.Event = field(default_factory=threading.Event)


class Runner:
    """Runs at once on the loop's thread, and on others when it is told to."""

    def __init__(self) -> None:
        self.loop_thread = threading.current_thread()
        self.inline: list[Batch] = []
        self.on_threads: queue.Queue[Batch] = queue.Queue()

    def __call__(self, key: str, payloads: list[Payload]) -> list[Answer | Exception]:
        batch = Batch(key, list(payloads))
        if threading.current_thread() is self.loop_thread:
            self.inline.append(batch)
        else:
            self.on_threads.put(batch)
            assert batch.may_finish.wait(60)
        behaviours = {payload.behaviour for payload in payloads}
        if "fails all" in behaviours:
            raise BatchFailed
        outcomes: list[Answer | Exception] = [
            ItemFailed(payload.number) if payload.behaviour == "fails" else Answer(payload.number, key, len(payloads))
            for payload in payloads
        ]
        return outcomes[1:] if "loses one" in behaviours else outcomes


@dataclass(eq=False)
class Item:
    """What the model knows of an accepted item."""

    number: int
    key: str
    nbytes: int
    arrived: float
    deadline: float | None
    future: "asyncio.Future[Ran]"
    left: bool = False
    expired: bool = False
    batch: Batch | None = None
    #: Its batch has ended, or it left the line before it had one.
    over: bool = False


class BatcherMachine(RuleBasedStateMachine):
    """Runs the batcher's loop in between the steps until nothing is left to do without a further step."""

    @initialize(delay=st.sampled_from([0.0, 0.0, 5.0]))
    def start(self, delay: float) -> None:
        self.loop = VirtualLoop()
        self.errors: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.errors.append(context))
        self.runner = Runner()
        self.delay = delay
        self.batcher = Batcher(
            self.runner,
            max_batch_size=MAX_BATCH_SIZE,
            max_batch_bytes=MAX_BATCH_BYTES,
            max_batch_delay=delay,
            max_queue_items=MAX_QUEUE_ITEMS,
            max_queue_bytes=MAX_QUEUE_BYTES,
            threads=LANES,
            inline_bytes=INLINE_BYTES,
            # Nothing is that quick: a kind that has run runs on threads, however small.
            inline_seconds=0.0,
            solo_bytes=SOLO_BYTES,
            clock=self.loop.time,
        )
        self.numbers = itertools.count()
        self.items: dict[int, Item] = {}
        self.open_places: list[tuple[Place, int]] = []
        self.reserved = 0
        self.running: list[Batch] = []
        self.started = 0
        self.kinds_run: set[str] = set()
        self.refused = 0
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
    def arrive(self, burst: list[tuple[str, int, float | None, Behaviour, bool]], stall: float) -> None:
        async def submit_all() -> None:
            for key, nbytes, patience, behaviour, reserved in burst:
                self._submit(key, nbytes, patience, behaviour, reserved=reserved)
            # Something holds the loop up before the batcher gets its turn.
            self._move_clock(stall)

        self._do(submit_all())

    @rule(nbytes=st.sampled_from([5, 390]))
    def reserve(self, nbytes: int) -> None:
        place = self._admitted(nbytes, lambda: self.batcher.reserve(nbytes))
        if place is not None:
            self.open_places.append((place, nbytes))
            self.reserved += 1

    @precondition(lambda self: self.open_places)
    @rule(which=st.integers(0))
    def give_up_place(self, which: int) -> None:
        with self.open_places.pop(which % len(self.open_places))[0]:
            pass

    @precondition(lambda self: any(not item.future.done() for item in self.items.values()))
    @rule(which=st.integers(0))
    def leave(self, which: int) -> None:
        unsettled = [item for item in self.items.values() if not item.future.done()]
        item = unsettled[which % len(unsettled)]
        assert item.future.cancel()
        item.left = True
        item.over = item.batch is None
        self._do(asyncio.sleep(0))

    @rule(seconds=st.sampled_from([0.5, 2.0, 10.0]))
    def time_passes(self, seconds: float) -> None:
        self._move_clock(seconds)
        self._do(asyncio.sleep(0))
        for item in self.items.values():
            assert not item.expired or isinstance(item.future.exception(), DeadlinePassed)

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0))
    def batch_finishes(self, which: int) -> None:
        self._finish(self.running[which % len(self.running)])

    @precondition(lambda self: self.drain is None)
    @rule()
    def begin_to_drain(self) -> None:
        self.drain = self.loop.create_task(self.batcher.drain())
        self._do(asyncio.sleep(0))

    # ---- what always holds

    @invariant()
    def bounds_hold(self) -> None:
        held = self._held()
        snapshot = self.batcher.snapshot()
        assert (snapshot.held_items, snapshot.held_bytes) == (len(held), sum(held))
        assert snapshot.held_items <= MAX_QUEUE_ITEMS
        assert snapshot.held_bytes <= MAX_QUEUE_BYTES
        assert len(self.running) <= LANES

    @invariant()
    def work_does_not_wait_for_nothing(self) -> None:
        waiting = self._waiting()
        assert self.batcher.snapshot().waiting_items == len(waiting)
        if waiting and len(self.running) < LANES:
            assert self.drain is None
            assert self.loop.now < waiting[0].arrived + self.delay
            assert all(len(self._company(item)) < MAX_BATCH_SIZE for item in waiting)

    @invariant()
    def everybody_has_the_own_answer(self) -> None:
        for item in self.items.values():
            if not item.future.done():
                assert item.batch is None or item.batch in self.running
            elif item.left:
                assert item.future.cancelled()
            elif item.expired:
                assert isinstance(item.future.exception(), DeadlinePassed)
            else:
                assert item.batch is not None
                self._check_outcome(item, item.batch)

    @invariant()
    def counts_add_up(self) -> None:
        snapshot = self.batcher.snapshot()
        settled = snapshot.completed + snapshot.failed + snapshot.expired + snapshot.cancelled
        assert settled == sum(item.future.done() for item in self.items.values())
        assert snapshot.accepted == len(self.items) + self.reserved
        assert snapshot.refused == self.refused
        assert not self.errors

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        for place, _ in self.open_places:
            with place:
                pass
        self.open_places.clear()
        drain = self.drain or self.loop.create_task(self.batcher.drain())
        self._do(asyncio.sleep(0))
        while self.running:
            self._finish(self.running[0])
        self.loop.run_until_complete(drain)
        assert all(item.future.done() for item in self.items.values())
        assert self.batcher.snapshot().held_items == 0
        self.everybody_has_the_own_answer()
        self.loop.close()

    # ---- the model

    def _move_clock(self, seconds: float) -> None:
        self.loop.now += seconds
        for item in self.items.values():
            if not item.future.done() and item.deadline is not None and item.deadline <= self.loop.now:
                item.expired = True
                item.over = item.batch is None

    def _submit(self, key: str, nbytes: int, patience: float | None, behaviour: Behaviour, *, reserved: bool) -> None:
        number = next(self.numbers)
        deadline = None if patience is None else self.loop.now + patience
        work = Work(key, Payload(number, behaviour), nbytes, deadline)

        def submit() -> "asyncio.Future[Ran]":
            if not reserved:
                return self.batcher.submit(work)
            with self.batcher.reserve(nbytes) as place:
                return self.batcher.submit(work, place)

        alone = not self._waiting()
        future = self._admitted(nbytes, submit)
        if future is None:
            return
        item = self.items[number] = Item(number, key, nbytes, self.loop.now, deadline, future)
        if self.runner.inline:
            # It ran as it came.
            (batch,) = self.runner.inline
            self.runner.inline.clear()
            self.started += 1
            assert alone
            assert not self.delay
            assert SOLO_BYTES <= nbytes <= INLINE_BYTES
            assert [payload.number for payload in batch.payloads] == [number]
            self.kinds_run.add(key)
            item.batch, item.over = batch, True
            assert future.done()

    def _admitted(self, nbytes: int, ask: Callable[[], T]) -> T | None:
        """What was asked for, if it was granted; whether it should be is what the model says."""
        held = self._held()
        expected: type[Exception] | None = None
        if self.drain is not None:
            expected = Draining
        elif len(held) == MAX_QUEUE_ITEMS or sum(held) + nbytes > MAX_QUEUE_BYTES:
            expected = QueueFull
        if expected is None:
            return ask()
        self.refused += 1
        with pytest.raises(expected) as refusal:
            ask()
        if isinstance(refusal.value, QueueFull):
            assert 0 < refusal.value.retry_after <= 30
        return None

    def _held(self) -> list[int]:
        """The bytes of each item or reservation that is here."""
        return [item.nbytes for item in self.items.values() if not item.over] + [size for _, size in self.open_places]

    def _waiting(self) -> list[Item]:
        return [item for item in self.items.values() if item.batch is None and not item.over]

    def _company(self, first: Item, max_bytes: int = MAX_BATCH_BYTES) -> list[Item]:
        """Who should run with `first`: those of its key behind it, as many as fit."""
        company = [item for item in self._waiting() if item.key == first.key and item.number >= first.number]
        sizes = list(itertools.accumulate(item.nbytes for item in company))
        fitting = sum(size <= max_bytes for size in sizes)
        return company[: min(max(fitting, 1), MAX_BATCH_SIZE)]

    def _do(self, step: Coroutine[Any, Any, Any]) -> None:
        """Take a step, give the loop the turns that it needs, and check the batches that have started since."""

        async def take() -> None:
            await step
            for _ in range(4 * MAX_QUEUE_ITEMS):
                await asyncio.sleep(0)

        self.loop.run_until_complete(take())
        total = sum(self.batcher.snapshot().batches.values())
        inline, self.runner.inline = self.runner.inline, []
        on_threads = [self.runner.on_threads.get(timeout=60) for _ in range(total - self.started - len(inline))]
        self.started = total
        # Threads tell of their batches in any order; the order of the oldest items is the one that was due.
        for batch in sorted(inline + on_threads, key=lambda batch: batch.payloads[0].number):
            self._started(batch, ended=batch in inline)
        self.running += on_threads

    def _started(self, batch: Batch, *, ended: bool) -> None:
        first = self.items[batch.payloads[0].number]
        if not self.delay:
            assert first is self._waiting()[0]
        small = first.nbytes <= INLINE_BYTES
        assert small or not ended
        assert ended or not small or batch.key in self.kinds_run
        company = self._company(first, INLINE_BYTES if ended else MAX_BATCH_BYTES)
        assert [payload.number for payload in batch.payloads] == [item.number for item in company]
        assert {item.key for item in company} == {batch.key}
        self.kinds_run.add(batch.key)
        for item in company:
            item.batch = batch
            item.over = ended

    def _finish(self, batch: Batch) -> None:
        held = self.batcher.snapshot().held_items

        async def until_it_is_over() -> None:
            # Nobody is told of the end of a batch whose callers have all left.
            while self.batcher.snapshot().held_items == held:  # noqa: ASYNC110
                await asyncio.sleep(0)

        batch.may_finish.set()
        self.running.remove(batch)
        for payload in batch.payloads:
            self.items[payload.number].over = True
        self._do(until_it_is_over())

    def _check_outcome(self, item: Item, batch: Batch) -> None:
        behaviours = {payload.number: payload.behaviour for payload in batch.payloads}
        if "fails all" in behaviours.values():
            assert isinstance(item.future.exception(), BatchFailed)
        elif "loses one" in behaviours.values():
            assert isinstance(item.future.exception(), RuntimeError)
        elif behaviours[item.number] == "fails":
            error = item.future.exception()
            assert isinstance(error, ItemFailed)
            assert error.args == (item.number,)
        else:
            ran = item.future.result()
            assert (ran.result, ran.device, ran.batch_size) == (item.number, item.key, len(batch.payloads))


TestBatcher = BatcherMachine.TestCase
TestBatcher.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
