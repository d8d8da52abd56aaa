"""client.map under the client's RetryPolicy: attempts, pauses, budget and counters."""

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2

from poolservice.v1 import pool_pb2
from poolservice_client import (
    AsyncPoolClient,
    ClientStats,
    DeadlineExceeded,
    GlobalAvgPool2d,
    MapItem,
    Overloaded,
    PoolClient,
    RetryPolicy,
    ServerError,
    Unavailable,
)
from poolservice_server.testing import Service

CODES = {code.value[0]: code for code in grpc.StatusCode}
QUICK = RetryPolicy(max_attempts=3, first_backoff=0.001, max_backoff=0.001)
NUMBERS = range(20)


def full(seconds: float = 0.0) -> status_pb2.Status:
    """The status of a full queue."""
    status = status_pb2.Status(code=code_pb2.RESOURCE_EXHAUSTED, message="the queue is full")
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(round(seconds * 1000))
    status.details.add().Pack(retry)
    return status


STOPPING = status_pb2.Status(code=code_pb2.UNAVAILABLE, message="the server is stopping")
BROKEN = status_pb2.Status(code=code_pb2.INTERNAL, message="it broke")
LATE = status_pb2.Status(code=code_pb2.DEADLINE_EXCEEDED, message="too late")


class FakeServer:
    """A server that fails as a test says, and otherwise returns the number in each image.

    It responds once all images are read. At most two messages that are not full are sent by then, so at least one
    message carries several images.

    Attributes:
        messages: the numbers in each message that arrived, in the order of arrival.
        refuse: returns the status of one request, given its number and how often it has arrived; None for success.
        fail: returns the status of a whole message, given its numbers; None for success.
    """

    def __init__(self) -> None:
        self.messages: list[list[int]] = []
        self.refuse: Callable[[int, int], status_pb2.Status | None] = lambda number, attempt: None
        self.fail: Callable[[list[int]], status_pb2.Status | None] = lambda numbers: None
        self._all_read = threading.Event()
        self._threads = ThreadPoolExecutor(16)
        self._server = grpc.server(self._threads)
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Pool": grpc.unary_unary_rpc_method_handler(
                self._pool, pool_pb2.PoolRequest.FromString, pool_pb2.PoolResponse.SerializeToString
            ),
            "PoolBatch": grpc.unary_unary_rpc_method_handler(
                self._pool_batch, pool_pb2.PoolBatchRequest.FromString, pool_pb2.PoolBatchResponse.SerializeToString
            ),
        }
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("poolservice.v1.PoolService", handlers),)
        )
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def images(self) -> Iterator[bytes]:
        """Yield an image for each number; they are small, so they are sent together."""
        for number in NUMBERS:
            yield str(number).encode()
        self._all_read.set()

    @property
    def attempts(self) -> Counter[int]:
        """How often each number has arrived."""
        return Counter(itertools.chain.from_iterable(self.messages))

    def stop(self) -> None:
        self._all_read.set()
        self._server.stop(None).wait()
        self._threads.shutdown()

    def _pool(self, request: pool_pb2.PoolRequest, context: grpc.ServicerContext) -> pool_pb2.PoolResponse:
        number = int(request.image.data)
        self._receive([number], context)
        if status := self.refuse(number, self.attempts[number]):
            self._abort(status, context)
        return response_of(number)

    def _pool_batch(
        self, batch: pool_pb2.PoolBatchRequest, context: grpc.ServicerContext
    ) -> pool_pb2.PoolBatchResponse:
        numbers = [int(request.image.data) for request in batch.requests]
        self._receive(numbers, context)
        attempts = self.attempts
        results = []
        for number in numbers:
            if status := self.refuse(number, attempts[number]):
                results.append(pool_pb2.PoolBatchResult(status=status))
            else:
                results.append(pool_pb2.PoolBatchResult(status=status_pb2.Status(), response=response_of(number)))
        return pool_pb2.PoolBatchResponse(results=results)

    def _receive(self, numbers: list[int], context: grpc.ServicerContext) -> None:
        assert self._all_read.wait(30)
        self.messages.append(numbers)
        if status := self.fail(numbers):
            self._abort(status, context)

    @staticmethod
    def _abort(status: status_pb2.Status, context: grpc.ServicerContext) -> None:
        context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        context.abort(CODES[status.code], status.message)


def response_of(number: int) -> pool_pb2.PoolResponse:
    data = np.array([number], np.float32).tobytes()
    tensor = pool_pb2.Tensor(dtype=pool_pb2.DATA_TYPE_FLOAT32, shape=[1], data=data)
    return pool_pb2.PoolResponse(results=[pool_pb2.PoolResult(tensor=tensor)])


@pytest.fixture
def server() -> Iterator[FakeServer]:
    server = FakeServer()
    yield server
    server.stop()


Collected = tuple[list[MapItem[Any]], ClientStats]


async def collect(
    client_class: type[Any], server: FakeServer, *, retries: RetryPolicy | None, **options: Any
) -> Collected:
    """Map the images with a client of the given class; return the items and the client's counters."""
    spec = GlobalAvgPool2d()
    if client_class is PoolClient:
        with PoolClient(server.address, retries=retries) as client:
            return list(client.map(server.images(), spec, items=True, **options)), client.stats()
    async with AsyncPoolClient(server.address, retries=retries) as aclient:
        items = [item async for item in aclient.map(server.images(), spec, items=True, **options)]
        return items, aclient.stats()


def check_results(items: Sequence[MapItem[Any]], *, failed: Sequence[int], error: type[Exception]) -> None:
    """Check that exactly the given numbers failed, with errors of the given type."""
    assert [item.index for item in items] == list(NUMBERS)
    for item in items:
        if item.index in failed:
            assert type(item.error) is error
        else:
            assert item.error is None
            assert item.result == item.index


both_clients = pytest.mark.parametrize("client_class", [PoolClient, AsyncPoolClient])
REFUSED = [3, 4, 17]


@both_clients
@pytest.mark.parametrize(("status", "error"), [(full(), Overloaded), (STOPPING, Unavailable)], ids=["full", "stopping"])
async def test_refused_items_are_sent_again_up_to_the_attempt_limit(
    server: FakeServer, client_class: type[Any], status: status_pb2.Status, error: type[Exception]
) -> None:
    server.refuse = lambda number, attempt: status if number in REFUSED else None
    items, stats = await collect(client_class, server, retries=QUICK)
    check_results(items, failed=REFUSED, error=error)
    assert server.attempts == {number: 3 if number in REFUSED else 1 for number in NUMBERS}
    # The refused items of a message are sent again together, which is one retry.
    assert stats.retries == len(server.messages) - stats.calls
    assert stats.retry_budget_exhausted == 0


@both_clients
async def test_refused_items_succeed_at_a_later_attempt(server: FakeServer, client_class: type[Any]) -> None:
    server.refuse = lambda number, attempt: full() if number in REFUSED and attempt < 3 else None
    items, _ = await collect(client_class, server, retries=QUICK)
    check_results(items, failed=[], error=Overloaded)
    assert server.attempts == {number: 3 if number in REFUSED else 1 for number in NUMBERS}


@both_clients
async def test_a_whole_message_is_retried_up_to_the_attempt_limit(server: FakeServer, client_class: type[Any]) -> None:
    server.fail = lambda numbers: STOPPING
    items, stats = await collect(client_class, server, retries=QUICK)
    check_results(items, failed=NUMBERS, error=Unavailable)
    assert server.attempts == dict.fromkeys(NUMBERS, 3)
    assert stats.retries == 2 * stats.calls
    assert len(server.messages) == 3 * stats.calls


@both_clients
async def test_attempts_of_the_message_and_of_its_items_have_one_limit(
    server: FakeServer, client_class: type[Any]
) -> None:
    seen: set[int] = set()

    def fail_first(numbers: list[int]) -> status_pb2.Status | None:
        first = not seen.intersection(numbers)
        seen.update(numbers)
        return STOPPING if first else None

    server.fail = fail_first
    server.refuse = lambda number, attempt: full() if number in REFUSED else None
    items, _ = await collect(client_class, server, retries=QUICK)
    check_results(items, failed=REFUSED, error=Overloaded)
    assert server.attempts == {number: 3 if number in REFUSED else 2 for number in NUMBERS}


@both_clients
async def test_without_retries_an_item_fails_on_its_first_error(server: FakeServer, client_class: type[Any]) -> None:
    server.refuse = lambda number, attempt: full() if number in REFUSED else None
    items, stats = await collect(client_class, server, retries=None)
    check_results(items, failed=REFUSED, error=Overloaded)
    assert server.attempts == dict.fromkeys(NUMBERS, 1)
    assert (stats.calls, stats.retries, stats.retry_budget_exhausted) == (len(server.messages), 0, 0)


@both_clients
async def test_without_retries_a_message_is_sent_once(server: FakeServer, client_class: type[Any]) -> None:
    server.fail = lambda numbers: STOPPING if 0 in numbers else None
    items, stats = await collect(client_class, server, retries=None)
    check_results(items, failed=next(numbers for numbers in server.messages if 0 in numbers), error=Unavailable)
    assert server.attempts == dict.fromkeys(NUMBERS, 1)
    assert stats.retries == 0


@both_clients
async def test_without_retries_the_map_does_not_wait_for_a_killed_server(
    start_server: Callable[..., Service], client_class: type[Any]
) -> None:
    server = start_server()
    x = np.ones((3, 8, 8), np.float32)
    if client_class is PoolClient:
        with PoolClient(server.address, retries=None) as client:
            results = client.map(itertools.repeat(x), GlobalAvgPool2d(), items=True)
            assert next(results).error is None
            server.kill()
            error = next(item.error for item in results if item.error is not None)
            stats = client.stats()
            results.close()
    else:
        async with AsyncPoolClient(server.address, retries=None) as aclient:
            awaited = aclient.map(itertools.repeat(x), GlobalAvgPool2d(), items=True)
            assert (await anext(awaited)).error is None
            server.kill()
            error = await anext(item.error async for item in awaited if item.error is not None)
            stats = aclient.stats()
            await awaited.aclose()
    assert isinstance(error, Unavailable)
    assert stats.retries == 0


@both_clients
async def test_the_budget_limits_the_retries_of_a_map(server: FakeServer, client_class: type[Any]) -> None:
    server.refuse = lambda number, attempt: full()
    policy = RetryPolicy(max_attempts=20, first_backoff=0.001, max_backoff=0.001, budget=0, burst=4)
    items, stats = await collect(client_class, server, retries=policy)
    check_results(items, failed=NUMBERS, error=Overloaded)
    assert stats.retries == 4
    assert stats.retry_budget_exhausted == stats.calls
    assert len(server.messages) == stats.calls + stats.retries


@both_clients
async def test_a_retry_waits_as_long_as_the_server_asks(server: FakeServer, client_class: type[Any]) -> None:
    arrived: list[float] = []

    def refuse(number: int, attempt: int) -> status_pb2.Status | None:
        if number == 5:
            arrived.append(time.monotonic())
        # The longest wait of a message counts.
        return full(0.3 if number == 5 else 0.1) if attempt == 1 else None

    server.refuse = refuse
    items, _ = await collect(client_class, server, retries=QUICK)
    check_results(items, failed=[], error=Overloaded)
    first, second = arrived
    assert second - first >= 0.3


@both_clients
async def test_a_retry_after_the_deadline_is_not_made(server: FakeServer, client_class: type[Any]) -> None:
    server.refuse = lambda number, attempt: full(60) if number in REFUSED else None
    items, stats = await collect(client_class, server, retries=QUICK, timeout=30)
    check_results(items, failed=REFUSED, error=Overloaded)
    assert server.attempts == dict.fromkeys(NUMBERS, 1)
    assert stats.retries == 0


@both_clients
async def test_a_deadline_is_not_retried(server: FakeServer, client_class: type[Any]) -> None:
    server.refuse = lambda number, attempt: LATE if number in REFUSED else None
    items, _ = await collect(client_class, server, retries=QUICK)
    check_results(items, failed=REFUSED, error=DeadlineExceeded)
    assert server.attempts == dict.fromkeys(NUMBERS, 1)


@both_clients
@pytest.mark.parametrize("retries", [None, QUICK], ids=["no retries", "retries"])
async def test_items_of_a_failed_message_are_sent_separately_which_is_no_retry(
    server: FakeServer, client_class: type[Any], retries: RetryPolicy | None
) -> None:
    server.fail = lambda numbers: BROKEN if 7 in numbers or len(numbers) > 1 else None
    items, stats = await collect(client_class, server, retries=retries)
    check_results(items, failed=[7], error=ServerError)
    broken = {number for numbers in server.messages if len(numbers) > 1 for number in numbers}
    assert broken
    assert server.attempts == {number: 2 if number in broken else 1 for number in NUMBERS}
    assert stats.retries == 0
    assert stats.calls == len(server.messages)


@both_clients
async def test_results_are_yielded_before_refused_items_are_sent_again(
    server: FakeServer, client_class: type[Any]
) -> None:
    received = threading.Event()

    def refuse(number: int, attempt: int) -> status_pb2.Status | None:
        if number != 0:
            return None
        # The second attempt lasts until every other result is received.
        return full() if attempt == 1 or not received.wait(30) else None

    server.refuse = refuse
    indices: list[int] = []

    def receive(item: MapItem[Any]) -> None:
        assert item.error is None
        indices.append(item.index)
        if len(indices) == len(NUMBERS) - 1:
            received.set()

    if client_class is PoolClient:
        with PoolClient(server.address, retries=QUICK) as client:
            for item in client.map(server.images(), GlobalAvgPool2d(), items=True, ordered=False):
                receive(item)
    else:
        async with AsyncPoolClient(server.address, retries=QUICK) as aclient:
            async for item in aclient.map(server.images(), GlobalAvgPool2d(), items=True, ordered=False):
                receive(item)
    assert indices[-1] == 0
    assert sorted(indices) == list(NUMBERS)


@both_clients
async def test_the_last_error_of_a_refused_item_is_reported(server: FakeServer, client_class: type[Any]) -> None:
    # Items are refused at first, then the whole message fails: the last error counts.
    server.refuse = lambda number, attempt: full() if number in REFUSED else None
    server.fail = lambda numbers: STOPPING if set(numbers) <= set(REFUSED) else None
    items, _ = await collect(client_class, server, retries=QUICK)
    check_results(items, failed=REFUSED, error=Unavailable)
