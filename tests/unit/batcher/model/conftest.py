"""A model of the batcher: which requests it holds, which batch runs next, and how each request should end."""

import asyncio
import itertools
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import pytest

from poolservice_server.batcher import Completed, Draining, Permit, QueueFull, QuotaExceeded, Quotas
from poolservice_server.batcher.queue import REQUEST_SECONDS
from poolservice_server.stop import Stop, WorkStopped

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
    quotas: Quotas = Quotas(max_requests=8, max_bytes=1000)
    long_seconds: float = 0.05
    #: So short that only work of an estimated 0 seconds runs inline.
    inline_seconds: float = 0.0


#: The estimated seconds of each key: 0 for "a", short for "b", long for "c". Sums of them are exact.
SECONDS = {"a": 0.0, "b": 2.0**-10, "c": 2.0**-4}


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
    #: True if the runner stopped it, because nobody waited for it any more.
    stopped: bool = False


class Runner:
    """Runs inline batches immediately, and those on threads when the test lets them finish."""

    def __init__(self) -> None:
        self.loop_thread = threading.current_thread()
        self.inline: list[Batch] = []
        self.on_threads: queue.Queue[Batch] = queue.Queue()

    def __call__(self, key: str, payloads: list[Payload], stop: Stop) -> list[Result | Exception]:
        batch = Batch(key, list(payloads))
        if threading.current_thread() is self.loop_thread:
            self.inline.append(batch)
        else:
            self.on_threads.put(batch)
            assert batch.may_finish.wait(60)
            if stop():
                batch.stopped = True
                raise WorkStopped
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
    caller: str
    nbytes: int
    arrived: float
    deadline: float | None
    future: "asyncio.Future[Completed]"
    cancelled: bool = False
    expired: bool = False
    batch: Batch | None = None
    #: True if its batch has ended, or if it left the queue before it had one.
    released: bool = False

    @property
    def work(self) -> float:
        """What its caller is charged for it."""
        return SECONDS[self.key] + REQUEST_SECONDS


class FairOrder:
    """Self-clocked fair queueing by its definition, over the waiting requests of one class."""

    def __init__(self) -> None:
        self._virtual_time = 0.0
        #: The virtual time until which each caller that waits has been served.
        self._served: dict[str, float] = {}

    def changed(self, waiting: list[AcceptedRequest]) -> None:
        """Requests have arrived or left."""
        if not waiting:
            self._virtual_time = 0.0
        self._served = {
            request.caller: self._served.get(request.caller, self._virtual_time)
            for request in sorted(waiting, key=lambda request: request.number)
        }

    def by_finish(self, waiting: list[AcceptedRequest]) -> list[AcceptedRequest]:
        """Return the requests by the virtual time at which each is finished, if only these wait."""
        served = dict(self._served)
        finish = {}
        for request in waiting:
            served[request.caller] += request.work
            finish[request.number] = (served[request.caller], request.number)
        return sorted(waiting, key=lambda request: finish[request.number])

    def first(self, waiting: list[AcceptedRequest]) -> AcceptedRequest:
        """Return the request that runs next."""
        firsts = {request.caller: request for request in reversed(waiting)}
        return min(firsts.values(), key=lambda one: (self._served[one.caller] + one.work, one.number))

    def taken(self, batch: list[AcceptedRequest]) -> None:
        """A batch has been taken from the queue."""
        first = batch[0]
        is_alone = len(self._served) == 1
        finish = self._served[first.caller] + first.work
        for request in batch:
            self._served[request.caller] += request.work
        self._virtual_time = self._served[first.caller] if is_alone else max(self._virtual_time, finish)


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
        self.open_permits: list[tuple[Permit, int, str]] = []
        self.running: list[Batch] = []
        self.reserved = 0
        self.refused = 0
        self.draining = False
        #: True if exactly one request arrived in the previous loop iteration with arrivals.
        self.last_was_single = False
        self._clock = clock
        self._numbers = itertools.count()
        self._orders = {False: FairOrder(), True: FairOrder()}

    # ---- what should be true now

    def admitted(self, caller: str | None = None) -> list[int]:
        """Return the bytes of each request or reservation that the batcher holds, of one caller or of all."""
        requests = [
            request.nbytes
            for request in self.requests.values()
            if not request.released and caller in (None, request.caller)
        ]
        return requests + [size for _, size, name in self.open_permits if caller in (None, name)]

    def waiting(self, *, is_long: bool | None = None) -> list[AcceptedRequest]:
        return [
            request
            for request in self.requests.values()
            if request.batch is None and not request.released and is_long in (None, self.is_long(request.key))
        ]

    def is_long(self, key: str) -> bool:
        return SECONDS[key] >= self.limits.long_seconds

    def free_slots(self, *, is_long: bool) -> int:
        """Return how many batches may start: long ones never take the last slot from short ones."""
        long_running = sum(self.is_long(batch.key) for batch in self.running)
        short_running = len(self.running) - long_running
        if not is_long:
            long_running = min(long_running, self.limits.threads - 1)
        return self.limits.threads - short_running - long_running

    def next_to_run(self) -> AcceptedRequest:
        """Return the request that should run next."""
        firsts = [
            self._orders[is_long].first(self.waiting(is_long=is_long))
            for is_long in (False, True)
            if self.waiting(is_long=is_long) and self.free_slots(is_long=is_long) > 0
        ]
        return min(firsts, key=lambda request: request.number)

    def unsettled(self) -> list[AcceptedRequest]:
        return [request for request in self.requests.values() if not request.future.done()]

    def batch_of(self, first: AcceptedRequest, max_bytes: int | None = None) -> list[AcceptedRequest]:
        """Return the batch that should start with `first`: as many other requests of its key as fit."""
        max_bytes = self.limits.max_batch_bytes if max_bytes is None else max_bytes
        same_key = [request for request in self.waiting() if request.key == first.key]
        others = self._orders[self.is_long(first.key)].by_finish(same_key)
        batch = [first, *(request for request in others if request is not first)]
        sizes = list(itertools.accumulate(request.nbytes for request in batch))
        fitting = sum(size <= max_bytes for size in sizes)
        return batch[: min(max(fitting, 1), self.limits.max_batch_size)]

    def refusal(self, nbytes: int, caller: str) -> type[Exception] | None:
        """Return the error that should refuse a request of this size, or None if it should be accepted."""
        admitted = self.admitted()
        if self.draining:
            return Draining
        if len(admitted) == self.limits.max_queue_items or sum(admitted) + nbytes > self.limits.max_queue_bytes:
            return QueueFull
        held, quotas = self.admitted(caller), self.limits.quotas
        if held and (len(held) == quotas.max_requests or sum(held) + nbytes > quotas.max_bytes):
            return QuotaExceeded
        return None

    # ---- what happens

    def payload(self, behavior: Behavior) -> Payload:
        return Payload(next(self._numbers), behavior)

    def accepted(
        self,
        payload: Payload,
        key: str,
        caller: str,
        nbytes: int,
        deadline: float | None,
        future: "asyncio.Future[Completed]",
    ) -> AcceptedRequest:
        request = AcceptedRequest(payload.number, key, caller, nbytes, self._clock(), deadline, future)
        self.requests[request.number] = request
        return request

    def queue_changed(self) -> None:
        """Requests have entered or left the queue."""
        for is_long, order in self._orders.items():
            order.changed(self.waiting(is_long=is_long))

    def ran_immediately(self, request: AcceptedRequest, batch: Batch, *, first_of_iteration: bool) -> None:
        """A request ran while it was submitted, when no other request waited."""
        assert not self.delay
        assert request.nbytes <= self.limits.inline_bytes
        assert request.nbytes >= self.limits.unbatched_bytes or (self.last_was_single and first_of_iteration)
        assert [payload.number for payload in batch.payloads] == [request.number]
        assert request.future.done()
        assert request.key == "a"
        request.batch, request.released = batch, True

    def started(self, batch: Batch, *, inline: bool) -> None:
        """The runner received a batch; an inline batch has ended too."""
        first = self.requests[batch.payloads[0].number]
        if not self.delay:
            assert first is self.next_to_run()
        assert inline is (first.nbytes <= self.limits.inline_bytes and first.key == "a")
        expected = self.batch_of(first, self.limits.inline_bytes if inline else None)
        # If all requests of a key fit, their order means nothing.
        assert batch.payloads[0].number == first.number
        assert {payload.number for payload in batch.payloads} == {request.number for request in expected}
        assert {request.key for request in expected} == {batch.key}
        self._orders[self.is_long(batch.key)].taken(expected)
        for request in expected:
            request.batch = batch
            request.released = inline
        self.queue_changed()
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
        self.queue_changed()

    def time_passed(self) -> None:
        now = self._clock()
        for request in self.unsettled():
            if request.deadline is not None and request.deadline <= now:
                request.expired = True
                request.released = request.batch is None
        self.queue_changed()

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


@pytest.fixture(scope="session")
def seconds_of_keys() -> dict[str, float]:
    """The estimated seconds of a request of each key."""
    return SECONDS
