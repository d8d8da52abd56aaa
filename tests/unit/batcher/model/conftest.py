"""A model of the batcher: which requests it holds, which batch runs next, and how each request should end."""

import asyncio
import itertools
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import pytest

from poolservice_server.batcher import Completed, Draining, Permit, QueueFull

Behavior = Literal["succeeds", "fails", "fails the batch", "loses an outcome"]


class Limits(NamedTuple):
    """The batcher's limits, by the names of its arguments."""

    max_batch_size: int = 4
    max_batch_bytes: int = 400
    max_queue_items: int = 12
    max_queue_bytes: int = 1500
    threads: int = 2
    inline_bytes: int = 40
    unbatched_bytes: int = 30


class Result(NamedTuple):
    result: Any
    device: str
    batch_size: int


class RequestFailed(Exception):
    pass


class BatchFailed(Exception):
    pass


class Payload(NamedTuple):
    number: int
    behavior: Behavior


@dataclass(eq=False)
class Batch:
    """A batch that the runner received."""

    key: str
    payloads: list[Payload]
    may_finish: threading.Event = field(default_factory=threading.Event)


class Runner:
    """Runs inline batches immediately, and those on threads when the test lets them finish."""

    def __init__(self) -> None:
        self.loop_thread = threading.current_thread()
        self.inline: list[Batch] = []
        self.on_threads: queue.Queue[Batch] = queue.Queue()

    def __call__(self, key: str, payloads: list[Payload]) -> list[Result | Exception]:
        batch = Batch(key, list(payloads))
        if threading.current_thread() is self.loop_thread:
            self.inline.append(batch)
        else:
            self.on_threads.put(batch)
            assert batch.may_finish.wait(60)
        behaviors = {payload.behavior for payload in payloads}
        if "fails the batch" in behaviors:
            raise BatchFailed
        outcomes: list[Result | Exception] = [
            RequestFailed(payload.number) if payload.behavior == "fails" else Result(payload.number, key, len(payloads))
            for payload in payloads
        ]
        return outcomes[1:] if "loses an outcome" in behaviors else outcomes


@dataclass(eq=False)
class AcceptedRequest:
    """What the model knows about an accepted request."""

    number: int
    key: str
    nbytes: int
    arrived: float
    deadline: float | None
    future: "asyncio.Future[Completed]"
    cancelled: bool = False
    expired: bool = False
    batch: Batch | None = None
    #: True if its batch has ended, or if it left the queue before it had one.
    released: bool = False


class Model:
    """Follows every event and checks what the batcher did.

    Args:
        delay: the batch delay.
        clock: seconds.
    """

    def __init__(self, delay: float, clock: Callable[[], float]) -> None:
        self.limits = Limits()
        self.delay = delay
        self.requests: dict[int, AcceptedRequest] = {}
        self.open_permits: list[tuple[Permit, int]] = []
        self.running: list[Batch] = []
        self.reserved = 0
        self.refused = 0
        self.draining = False
        #: True if exactly one request arrived in the previous loop iteration with arrivals.
        self.last_was_single = False
        self._clock = clock
        self._numbers = itertools.count()
        self._keys_that_ran: set[str] = set()

    # ---- what should be true now

    def admitted(self) -> list[int]:
        """Return the bytes of each request or reservation that the batcher holds."""
        requests = [request.nbytes for request in self.requests.values() if not request.released]
        return requests + [size for _, size in self.open_permits]

    def waiting(self) -> list[AcceptedRequest]:
        return [request for request in self.requests.values() if request.batch is None and not request.released]

    def unsettled(self) -> list[AcceptedRequest]:
        return [request for request in self.requests.values() if not request.future.done()]

    def batch_of(self, first: AcceptedRequest, max_bytes: int | None = None) -> list[AcceptedRequest]:
        """Return the batch that should start with `first`: as many later requests of its key as fit."""
        max_bytes = self.limits.max_batch_bytes if max_bytes is None else max_bytes
        batch = [request for request in self.waiting() if request.key == first.key and request.number >= first.number]
        sizes = list(itertools.accumulate(request.nbytes for request in batch))
        fitting = sum(size <= max_bytes for size in sizes)
        return batch[: min(max(fitting, 1), self.limits.max_batch_size)]

    def refusal(self, nbytes: int) -> type[Exception] | None:
        """Return the error that should refuse a request of this size, or None if it should be accepted."""
        admitted = self.admitted()
        if self.draining:
            return Draining
        if len(admitted) == self.limits.max_queue_items or sum(admitted) + nbytes > self.limits.max_queue_bytes:
            return QueueFull
        return None

    # ---- what happens

    def payload(self, behavior: Behavior) -> Payload:
        return Payload(next(self._numbers), behavior)

    def accepted(
        self, payload: Payload, key: str, nbytes: int, deadline: float | None, future: "asyncio.Future[Completed]"
    ) -> AcceptedRequest:
        request = AcceptedRequest(payload.number, key, nbytes, self._clock(), deadline, future)
        self.requests[request.number] = request
        return request

    def ran_immediately(self, request: AcceptedRequest, batch: Batch, *, first_of_iteration: bool) -> None:
        """A request ran while it was submitted, when no other request waited."""
        assert not self.delay
        assert request.nbytes <= self.limits.inline_bytes
        assert request.nbytes >= self.limits.unbatched_bytes or (self.last_was_single and first_of_iteration)
        assert [payload.number for payload in batch.payloads] == [request.number]
        assert request.future.done()
        self._keys_that_ran.add(request.key)
        request.batch, request.released = batch, True

    def started(self, batch: Batch, *, inline: bool) -> None:
        """The runner received a batch; an inline batch has ended too."""
        first = self.requests[batch.payloads[0].number]
        if not self.delay:
            assert first is self.waiting()[0]
        small = first.nbytes <= self.limits.inline_bytes
        assert small or not inline
        assert inline or not small or batch.key in self._keys_that_ran
        expected = self.batch_of(first, self.limits.inline_bytes if inline else None)
        assert [payload.number for payload in batch.payloads] == [request.number for request in expected]
        assert {request.key for request in expected} == {batch.key}
        self._keys_that_ran.add(batch.key)
        for request in expected:
            request.batch = batch
            request.released = inline
        if not inline:
            self.running.append(batch)

    def finished(self, batch: Batch) -> None:
        """A batch on a thread may finish."""
        self.running.remove(batch)
        for payload in batch.payloads:
            self.requests[payload.number].released = True

    def cancelled(self, request: AcceptedRequest) -> None:
        request.cancelled = True
        request.released = request.batch is None

    def time_passed(self) -> None:
        now = self._clock()
        for request in self.unsettled():
            if request.deadline is not None and request.deadline <= now:
                request.expired = True
                request.released = request.batch is None

    # ---- how it should end

    def check_outcome(self, request: AcceptedRequest, batch: Batch) -> None:
        """Check the outcome of a request that was neither cancelled nor expired."""
        behaviors = {payload.number: payload.behavior for payload in batch.payloads}
        if "fails the batch" in behaviors.values():
            assert isinstance(request.future.exception(), BatchFailed)
        elif "loses an outcome" in behaviors.values():
            assert isinstance(request.future.exception(), RuntimeError)
        elif behaviors[request.number] == "fails":
            error = request.future.exception()
            assert isinstance(error, RequestFailed)
            assert error.args == (request.number,)
        else:
            completed = request.future.result()
            assert (completed.result, completed.device) == (request.number, request.key)
            assert completed.batch_size == len(batch.payloads)


@pytest.fixture(scope="session")
def new_model() -> Callable[[float, Callable[[], float]], Model]:
    return Model


@pytest.fixture(scope="session")
def new_runner() -> Callable[[], Runner]:
    return Runner
