"""client.map under the client's RetryPolicy: attempts, pauses, budget and counters."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from google.rpc import status_pb2
from tests.client.failing_server import BROKEN, LATE, NUMBERS, STOPPING, FailingServer, full

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

QUICK = RetryPolicy(max_attempts=3, first_backoff=0.001, max_backoff=0.001)


@pytest.fixture
def server() -> Iterator[FailingServer]:
    server = FailingServer()
    yield server
    server.stop()


Collected = tuple[list[MapItem[Any]], ClientStats]


async def collect(
    client_class: type[Any], server: FailingServer, *, retries: RetryPolicy | None, **options: Any
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
    server: FailingServer, client_class: type[Any], status: status_pb2.Status, error: type[Exception]
) -> None:
    server.refuse = lambda number, attempt: status if number in REFUSED else None
    items, stats = await collect(client_class, server, retries=QUICK)
    check_results(items, failed=REFUSED, error=error)
    assert server.attempts == {number: 3 if number in REFUSED else 1 for number in NUMBERS}
    # The refused items of a message are sent again together, which is one retry.
    assert stats.retries == len(server.messages) - stats.calls
    assert stats.retry_budget_exhausted == 0


@both_clients
async def test_refused_items_succeed_at_a_later_attempt(server: FailingServer, client_class: type[Any]) -> None:
    server.refuse = lambda number, attempt: full() if number in REFUSED and attempt < 3 else None
    items, _ = await collect(client_class, server, retries=QUICK)
    check_results(items, failed=[], error=Overloaded)
    assert server.attempts == {number: 3 if number in REFUSED else 1 for number in NUMBERS}


@both_clients
async def test_a_whole_message_is_retried_up_to_the_attempt_limit(
    server: FailingServer, client_class: type[Any]
) -> None:
    server.fail = lambda numbers: STOPPING
    items, stats = await collect(client_class, server, retries=QUICK)
    check_results(items, failed=NUMBERS, error=Unavailable)
    assert server.attempts == dict.fromkeys(NUMBERS, 3)
    assert stats.retries == 2 * stats.calls
    assert len(server.messages) == 3 * stats.calls


@both_clients
async def test_attempts_of_the_message_and_of_its_items_have_one_limit(
    server: FailingServer, client_class: type[Any]
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
async def test_without_retries_an_item_fails_on_its_first_error(server: FailingServer, client_class: type[Any]) -> None:
    server.refuse = lambda number, attempt: full() if number in REFUSED else None
    items, stats = await collect(client_class, server, retries=None)
    check_results(items, failed=REFUSED, error=Overloaded)
    assert server.attempts == dict.fromkeys(NUMBERS, 1)
    assert (stats.calls, stats.retries, stats.retry_budget_exhausted) == (len(server.messages), 0, 0)


@both_clients
async def test_without_retries_a_message_is_sent_once(server: FailingServer, client_class: type[Any]) -> None:
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
async def test_the_budget_limits_the_retries_of_a_map(server: FailingServer, client_class: type[Any]) -> None:
    server.refuse = lambda number, attempt: full()
    policy = RetryPolicy(max_attempts=20, first_backoff=0.001, max_backoff=0.001, budget=0, burst=4)
    items, stats = await collect(client_class, server, retries=policy)
    check_results(items, failed=NUMBERS, error=Overloaded)
    assert stats.retries == 4
    assert stats.retry_budget_exhausted == stats.calls
    assert len(server.messages) == stats.calls + stats.retries


@both_clients
async def test_a_retry_waits_as_long_as_the_server_asks(server: FailingServer, client_class: type[Any]) -> None:
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
async def test_a_retry_after_the_deadline_is_not_made(server: FailingServer, client_class: type[Any]) -> None:
    server.refuse = lambda number, attempt: full(60) if number in REFUSED else None
    items, stats = await collect(client_class, server, retries=QUICK, timeout=30)
    check_results(items, failed=REFUSED, error=Overloaded)
    assert server.attempts == dict.fromkeys(NUMBERS, 1)
    assert stats.retries == 0


@both_clients
async def test_a_deadline_is_not_retried(server: FailingServer, client_class: type[Any]) -> None:
    server.refuse = lambda number, attempt: LATE if number in REFUSED else None
    items, _ = await collect(client_class, server, retries=QUICK)
    check_results(items, failed=REFUSED, error=DeadlineExceeded)
    assert server.attempts == dict.fromkeys(NUMBERS, 1)


@both_clients
@pytest.mark.parametrize("retries", [None, QUICK], ids=["no retries", "retries"])
async def test_items_of_a_failed_message_are_sent_separately_which_is_no_retry(
    server: FailingServer, client_class: type[Any], retries: RetryPolicy | None
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
    server: FailingServer, client_class: type[Any]
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
async def test_the_last_error_of_a_refused_item_is_reported(server: FailingServer, client_class: type[Any]) -> None:
    # Items are refused at first, then the whole message fails: the last error counts.
    server.refuse = lambda number, attempt: full() if number in REFUSED else None
    server.fail = lambda numbers: STOPPING if set(numbers) <= set(REFUSED) else None
    items, _ = await collect(client_class, server, retries=QUICK)
    check_results(items, failed=REFUSED, error=Unavailable)
