"""client.map against servers with quotas: it slows down, and every item succeeds."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from google.rpc import status_pb2
from tests.client.failing_server import NUMBERS, FailingServer, full

from poolservice_client import (
    AsyncPoolClient,
    ClientStats,
    GlobalAvgPool2d,
    MapItem,
    Overloaded,
    PoolClient,
    RetryPolicy,
)
from poolservice_server.testing import serve

both_clients = pytest.mark.parametrize("client_class", [PoolClient, AsyncPoolClient])

SPEC = GlobalAvgPool2d()
DEFAULT = RetryPolicy()
QUOTAS = (
    ("--caller-max-requests", "3"),
    ("--caller-max-rate", "60"),
    ("--caller-max-bytes", "100000"),
    ("--caller-max-seconds", "0.001"),
    ("--max-queue-items", "4"),
)


async def collect(
    client_class: type[Any], address: str, inputs: Any, retries: RetryPolicy | None = DEFAULT, **options: Any
) -> tuple[list[MapItem[Any]], ClientStats]:
    """Map the inputs with a client of the given class; return the items and the client's counters."""
    if client_class is PoolClient:
        with PoolClient(address, retries=retries) as client:
            return list(client.map(inputs, SPEC, items=True, **options)), client.stats()
    async with AsyncPoolClient(address, retries=retries) as aclient:
        return [item async for item in aclient.map(inputs, SPEC, items=True, **options)], aclient.stats()


def inputs_of(kind: str) -> Sequence[Any]:
    """Inputs that are sent stacked, batched or one per message."""
    if kind == "stacked":
        return [np.full((2, 4, 4), number, np.float32) for number in range(600)]
    if kind == "batched":
        return [np.full((2, 4, 4 + number), number, np.float32) for number in range(300)]
    return [np.full((2, 256, 256), number, np.float32) for number in range(40)]


@pytest.fixture(scope="module", params=QUOTAS, ids=[flag for flag, _ in QUOTAS])
def limited_address(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a server with a small quota or queue."""
    with serve("--device", "cpu", *request.param) as service:
        yield service.address


@both_clients
@pytest.mark.parametrize("kind", ["stacked", "batched", "large"])
async def test_all_items_succeed_under_a_quota(limited_address: str, client_class: type[Any], kind: str) -> None:
    inputs = inputs_of(kind)
    items, stats = await collect(client_class, limited_address, inputs)
    assert [item.index for item in items] == list(range(len(inputs)))
    for number, item in enumerate(items):
        assert item.error is None, item.error
        np.testing.assert_array_equal(item.result, np.full((2, 1, 1), number, np.float32), strict=True)
    # Waiting for a quota takes nothing from the budget. A refusal whose delay is rounded to 0 ms is an ordinary retry.
    assert stats.retry_budget_exhausted == 0
    assert stats.retries < DEFAULT.burst / 4


@pytest.fixture
def server() -> Iterator[FailingServer]:
    server = FailingServer()
    yield server
    server.stop()


ONE_ATTEMPT = RetryPolicy(max_attempts=1, first_backoff=0.001, max_backoff=0.001, budget=0, burst=0)


@both_clients
async def test_waiting_for_a_quota_needs_neither_attempts_nor_a_budget(
    server: FailingServer, client_class: type[Any]
) -> None:
    server.refuse = lambda number, attempt: full(0.001) if attempt < 4 else None
    items, stats = await collect(client_class, server.address, server.images(), ONE_ATTEMPT)
    assert [item.error for item in items] == [None] * len(NUMBERS)
    assert [item.result for item in items] == list(NUMBERS)
    assert server.attempts == dict.fromkeys(NUMBERS, 4)
    assert stats.retries == 0


@both_clients
async def test_a_whole_message_that_is_refused_waits_too(server: FailingServer, client_class: type[Any]) -> None:
    seen: set[tuple[int, ...]] = set()

    def fail_first(numbers: list[int]) -> status_pb2.Status | None:
        first = tuple(numbers) not in seen
        seen.add(tuple(numbers))
        return full(0.001) if first else None

    server.fail = fail_first
    items, stats = await collect(client_class, server.address, server.images(), ONE_ATTEMPT)
    assert [item.error for item in items] == [None] * len(NUMBERS)
    assert stats.retries == 0


@both_clients
async def test_items_fail_if_nothing_succeeds_within_the_timeout(
    server: FailingServer, client_class: type[Any]
) -> None:
    server.refuse = lambda number, attempt: full(0.01)
    items, _ = await collect(client_class, server.address, server.images(), timeout=1)
    assert {type(item.error) for item in items} == {Overloaded}
    assert {str(item.error) for item in items} == {"the queue is full"}


@both_clients
async def test_without_retries_a_refused_item_fails(server: FailingServer, client_class: type[Any]) -> None:
    server.refuse = lambda number, attempt: full(0.001) if number == 3 else None
    items, _ = await collect(client_class, server.address, server.images(), None)
    assert [item.index for item in items if item.error is not None] == [3]
    assert server.attempts == dict.fromkeys(NUMBERS, 1)


@both_clients
async def test_a_map_that_waits_for_a_quota_can_be_left(server: FailingServer, client_class: type[Any]) -> None:
    server.refuse = lambda number, attempt: full(20) if number != 0 else None
    if client_class is PoolClient:
        with PoolClient(server.address) as client:
            results = client.map(server.images(), SPEC)
            assert next(results) == 0
            results.close()
    else:
        async with AsyncPoolClient(server.address) as aclient:
            awaited = aclient.map(server.images(), SPEC)
            assert await anext(awaited) == 0
            await awaited.aclose()
