"""Which calls of many tasks are coalesced, and which do not wait."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from poolservice_client import AsyncPoolClient, AvgPool2d, MaxPool2d

if TYPE_CHECKING:
    from tests.client.coalescing.aio.conftest import ScriptedTransport

Call = Callable[..., Awaitable[bool]]
Start = Callable[..., Awaitable[list[asyncio.Task[Any]]]]

POOL_BATCH = "/poolservice.v1.PoolService/PoolBatch"


async def test_calls_of_tasks_are_coalesced(
    transport: "ScriptedTransport", long_max_wait: None, call: Call, start: Start
) -> None:
    async with AsyncPoolClient(transport=transport) as client:
        tasks = await start(*(call(client, number) for number in range(40)))
        assert len(transport.messages) == 1
        await transport.end_all()
        assert await asyncio.gather(*tasks) == [True] * 40
    assert len(transport.messages) == 2


async def test_the_next_calls_of_coalesced_tasks_are_coalesced_again(
    transport: "ScriptedTransport", long_max_wait: None, call: Call, start: Start
) -> None:
    async def loop(client: AsyncPoolClient, number: int) -> bool:
        return all([await call(client, number + again) for again in range(5)])

    async with AsyncPoolClient(transport=transport) as client:
        tasks = await start(*(loop(client, number) for number in range(10)))
        await transport.end_all()
        assert await asyncio.gather(*tasks) == [True] * 10
    # One message for the first call of the first task, and then about one for each round of the other calls.
    assert len(transport.messages) <= 7


async def test_calls_of_different_shapes_form_a_batch(
    transport: "ScriptedTransport", long_max_wait: None, call: Call, start: Start
) -> None:
    async with AsyncPoolClient(transport=transport) as client:
        tasks = await start(*(call(client, number, None, 3 + number % 3) for number in range(40)))
        await transport.end_all()
        assert await asyncio.gather(*tasks) == [True] * 40
    assert transport.methods[1:] == [POOL_BATCH]


async def test_coalescing_can_be_turned_off(transport: "ScriptedTransport", call: Call, start: Start) -> None:
    async with AsyncPoolClient(transport=transport, coalesce=False) as client:
        tasks = await start(*(call(client, number) for number in range(20)))
        assert len(transport.messages) == 20
        await transport.end_all()
        assert await asyncio.gather(*tasks) == [True] * 20


async def test_no_call_waits_long_for_a_slow_response(transport: "ScriptedTransport", call: Call, start: Start) -> None:
    async with AsyncPoolClient(transport=transport) as client:
        tasks = await start(*(call(client, number) for number in range(5)))
        await asyncio.wait_for(transport.second_sent.wait(), 30)
        await transport.end(1)
        assert await asyncio.gather(*tasks[1:]) == [True] * 4
        assert not tasks[0].done()
        await transport.end_all()
        assert await tasks[0]


async def test_coalesced_results_of_the_real_server_equal_uncoalesced_ones(server_address: str) -> None:
    random = np.random.default_rng(4)
    xs = [random.standard_normal((3, 6 + 2 * (n % 3), 8)).astype(np.float32) for n in range(300)]
    specs = [MaxPool2d(2, return_indices=True), AvgPool2d(2)]
    async with (
        AsyncPoolClient(server_address) as client,
        AsyncPoolClient(server_address, coalesce=False) as uncoalesced,
    ):
        responses = await asyncio.gather(*(client.pool(x, specs, execution=True) for x in xs))
        assert max(execution.batch_size for _, execution in responses) > 10
        for x, (((high, indices), mean), _) in zip(xs, responses, strict=True):
            (expected_high, expected_indices), expected_mean = await uncoalesced.pool(x, specs)
            np.testing.assert_array_equal(high, expected_high, strict=True)
            np.testing.assert_array_equal(indices, expected_indices, strict=True)
            np.testing.assert_array_equal(mean, expected_mean, strict=True)
