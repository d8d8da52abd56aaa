"""Which calls of many tasks travel together, and which do not wait."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from poolservice_client import AsyncPoolClient, AvgPool2d, MaxPool2d

if TYPE_CHECKING:
    from tests.client.coalescing.aio.conftest import Script

Ask = Callable[..., Awaitable[bool]]
Start = Callable[..., Awaitable[list[asyncio.Task[Any]]]]

BATCH = "/poolservice.v1.PoolService/PoolBatch"


async def test_tasks_travel_together(script: "Script", patient: None, ask: Ask, start: Start) -> None:
    async with AsyncPoolClient(transport=script) as client:
        tasks = await start(*(ask(client, number) for number in range(40)))
        assert len(script.flights) == 1
        await script.run_dry()
        assert await asyncio.gather(*tasks) == [True] * 40
    assert len(script.flights) == 2


async def test_those_that_were_answered_travel_together_again(
    script: "Script", patient: None, ask: Ask, start: Start
) -> None:
    async def loop(client: AsyncPoolClient, number: int) -> bool:
        return all([await ask(client, number + again) for again in range(5)])

    async with AsyncPoolClient(transport=script) as client:
        tasks = await start(*(loop(client, number) for number in range(10)))
        await script.run_dry()
        assert await asyncio.gather(*tasks) == [True] * 10
    # The first call of the first task, four or five rounds of all ten, and the end of the first task's head start.
    assert len(script.flights) <= 7


async def test_unequal_ones_travel_side_by_side(script: "Script", patient: None, ask: Ask, start: Start) -> None:
    async with AsyncPoolClient(transport=script) as client:
        tasks = await start(*(ask(client, number, None, 3 + number % 3) for number in range(40)))
        await script.run_dry()
        assert await asyncio.gather(*tasks) == [True] * 40
    assert script.methods[1:] == [BATCH]


async def test_it_is_turned_off(script: "Script", ask: Ask, start: Start) -> None:
    async with AsyncPoolClient(transport=script, coalesce=False) as client:
        tasks = await start(*(ask(client, number) for number in range(20)))
        assert len(script.flights) == 20
        await script.run_dry()
        assert await asyncio.gather(*tasks) == [True] * 20


async def test_nobody_waits_long_behind_a_slow_answer(script: "Script", ask: Ask, start: Start) -> None:
    async with AsyncPoolClient(transport=script) as client:
        tasks = await start(*(ask(client, number) for number in range(5)))
        await asyncio.wait_for(script.second.wait(), 30)
        await script.end(1)
        assert await asyncio.gather(*tasks[1:]) == [True] * 4
        assert not tasks[0].done()
        await script.run_dry()
        assert await tasks[0]


async def test_the_real_server_answers_as_it_does_alone(server_address: str) -> None:
    random = np.random.default_rng(4)
    xs = [random.standard_normal((3, 6 + 2 * (n % 3), 8)).astype(np.float32) for n in range(300)]
    specs = [MaxPool2d(2, return_indices=True), AvgPool2d(2)]
    async with AsyncPoolClient(server_address) as client, AsyncPoolClient(server_address, coalesce=False) as alone:
        replies = await asyncio.gather(*(client.pool(x, specs, execution=True) for x in xs))
        assert max(execution.batch_size for _, execution in replies) > 10
        for x, (((high, at), mean), _) in zip(xs, replies, strict=True):
            (right, where), average = await alone.pool(x, specs)
            for one, other in ((high, right), (at, where), (mean, average)):
                np.testing.assert_array_equal(one, other, strict=True)
