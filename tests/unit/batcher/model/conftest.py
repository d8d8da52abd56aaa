"""The model of the batcher: who is here, who should run with whom, and how each one should end."""

import asyncio
import itertools
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import pytest

from poolservice_server.batcher import Completed, Draining, Permit, QueueFull

Behaviour = Literal["answers", "fails", "fails all", "loses one"]


class Limits(NamedTuple):
    """What the batcher is told to keep to, by the names of its arguments."""

    max_batch_size: int = 4
    max_batch_bytes: int = 400
    max_queue_items: int = 12
    max_queue_bytes: int = 1500
    threads: int = 2
    inline_bytes: int = 40
    unbatched_bytes: int = 30


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
    future: "asyncio.Future[Completed]"
    left: bool = False
    expired: bool = False
    batch: Batch | None = None
    #: Its batch has ended, or it left the line before it had one.
    over: bool = False


class Model:
    """What is told of everything that happens, and checks what the batcher made of it.

    Args:
        delay: for how long items wait for company.
        clock: seconds.
    """

    def __init__(self, delay: float, clock: Callable[[], float]) -> None:
        self.limits = Limits()
        self.delay = delay
        self.items: dict[int, Item] = {}
        self.open_places: list[tuple[Permit, int]] = []
        self.running: list[Batch] = []
        self.reserved = 0
        self.refused = 0
        self.draining = False
        #: The last turn of the loop in which any item came brought one only.
        self.lonely = False
        self._clock = clock
        self._numbers = itertools.count()
        self._kinds_run: set[str] = set()

    # ---- what should be true now

    def held(self) -> list[int]:
        """The bytes of each item or reservation that is here."""
        return [item.nbytes for item in self.items.values() if not item.over] + [size for _, size in self.open_places]

    def waiting(self) -> list[Item]:
        return [item for item in self.items.values() if item.batch is None and not item.over]

    def unsettled(self) -> list[Item]:
        return [item for item in self.items.values() if not item.future.done()]

    def company(self, first: Item, max_bytes: int | None = None) -> list[Item]:
        """Who should run with `first`: those of its key behind it, as many as fit."""
        max_bytes = self.limits.max_batch_bytes if max_bytes is None else max_bytes
        company = [item for item in self.waiting() if item.key == first.key and item.number >= first.number]
        sizes = list(itertools.accumulate(item.nbytes for item in company))
        fitting = sum(size <= max_bytes for size in sizes)
        return company[: min(max(fitting, 1), self.limits.max_batch_size)]

    def refusal(self, nbytes: int) -> type[Exception] | None:
        """What should be said to an item of so many bytes; None where it is to be accepted."""
        held = self.held()
        if self.draining:
            return Draining
        if len(held) == self.limits.max_queue_items or sum(held) + nbytes > self.limits.max_queue_bytes:
            return QueueFull
        return None

    # ---- what happens

    def payload(self, behaviour: Behaviour) -> Payload:
        return Payload(next(self._numbers), behaviour)

    def accepted(
        self, payload: Payload, key: str, nbytes: int, deadline: float | None, future: "asyncio.Future[Completed]"
    ) -> Item:
        item = Item(payload.number, key, nbytes, self._clock(), deadline, future)
        self.items[item.number] = item
        return item

    def ran_as_it_came(self, item: Item, batch: Batch, *, first_of_its_turn: bool) -> None:
        """An item was run while it was submitted; nobody waited before it."""
        assert not self.delay
        assert item.nbytes <= self.limits.inline_bytes
        assert item.nbytes >= self.limits.unbatched_bytes or (self.lonely and first_of_its_turn)
        assert [payload.number for payload in batch.payloads] == [item.number]
        assert item.future.done()
        self._kinds_run.add(item.key)
        item.batch, item.over = batch, True

    def started(self, batch: Batch, *, inline: bool) -> None:
        """A batch was given to the runner, which is done with it where it ran on the loop."""
        first = self.items[batch.payloads[0].number]
        if not self.delay:
            assert first is self.waiting()[0]
        small = first.nbytes <= self.limits.inline_bytes
        assert small or not inline
        assert inline or not small or batch.key in self._kinds_run
        company = self.company(first, self.limits.inline_bytes if inline else None)
        assert [payload.number for payload in batch.payloads] == [item.number for item in company]
        assert {item.key for item in company} == {batch.key}
        self._kinds_run.add(batch.key)
        for item in company:
            item.batch = batch
            item.over = inline
        if not inline:
            self.running.append(batch)

    def finished(self, batch: Batch) -> None:
        """A batch that ran on a thread was let go."""
        self.running.remove(batch)
        for payload in batch.payloads:
            self.items[payload.number].over = True

    def left(self, item: Item) -> None:
        item.left = True
        item.over = item.batch is None

    def time_passed(self) -> None:
        now = self._clock()
        for item in self.unsettled():
            if item.deadline is not None and item.deadline <= now:
                item.expired = True
                item.over = item.batch is None

    # ---- how it should end

    def check_outcome(self, item: Item, batch: Batch) -> None:
        """An item that neither left nor expired has what its batch made of it."""
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


@pytest.fixture(scope="session")
def new_model() -> Callable[[float, Callable[[], float]], Model]:
    return Model


@pytest.fixture(scope="session")
def new_runner() -> Callable[[], Runner]:
    return Runner
