"""Tasks whose calls travel together: a cancellation, a deadline and an error are each one's own."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest

from poolservice_client import AsyncPoolClient, DeadlineExceeded, InvalidRequest, Overloaded, PoolError, ServerError

if TYPE_CHECKING:
    from tests.client.coalescing.aio.conftest import Script

Ask = Callable[..., Awaitable[bool]]
Start = Callable[..., Awaitable[list[asyncio.Task[Any]]]]
Settled = Callable[[], Awaitable[None]]


async def test_a_cancelled_leader_cancels_nobody_else(
    script: "Script", patient: None, ask: Ask, start: Start, settled: Settled
) -> None:
    async with AsyncPoolClient(transport=script) as client:
        first, *others = await start(*(ask(client, number) for number in range(5)))
        first.cancel()
        await settled()
        assert script.flights[0].cancelled()
        await script.run_dry()
        assert await asyncio.gather(*others) == [True] * 4
        assert first.cancelled()
    assert len(script.flights) == 2


async def test_one_that_is_cancelled_leaves_the_others_and_the_last_one_takes_the_message_with_it(
    script: "Script", patient: None, ask: Ask, start: Start, settled: Settled
) -> None:
    async with AsyncPoolClient(transport=script) as client:
        tasks = await start(*(ask(client, number) for number in range(5)))
        tasks[1].cancel()
        await script.end(0)
        tasks[2].cancel()
        await settled()
        assert not script.flights[1].done()
        tasks[3].cancel()
        tasks[4].cancel()
        await settled()
        assert script.flights[1].cancelled()
        assert await tasks[0]
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks[1:])
        (last,) = await start(ask(client, 7))
        await script.run_dry()
        assert await last
    assert len(script.flights) == 3


async def test_cancelling_the_lines_own_task_costs_nobody_an_answer(
    script: "Script", patient: None, ask: Ask, start: Start, settled: Settled
) -> None:
    async with AsyncPoolClient(transport=script) as client:
        before = asyncio.all_tasks()
        tasks = await start(*(ask(client, number) for number in range(5)))
        await script.end(0)
        tasks += await start(*(ask(client, number) for number in range(5)))
        for task in asyncio.all_tasks() - before - set(tasks):
            task.cancel()
        await settled()
        await script.run_dry()
        assert await asyncio.gather(*tasks) == [True] * 10
    # A loop that is being shut down gets no new task of the line's: each of the nine goes in its own.
    assert len(script.flights) == 2 + 9


async def test_each_has_its_own_deadline(script: "Script", patient: None, ask: Ask, start: Start) -> None:
    async with AsyncPoolClient("there:1", transport=script) as client:
        tasks = await start(ask(client, 0), ask(client, 1, 20), ask(client, 2, 0.1), ask(client, 3, 0.03))
        with pytest.raises(DeadlineExceeded, match=r"there:1 gave no response within the timeout of 0\.03 s"):
            await tasks[3]
        await script.end(0)
        with pytest.raises(DeadlineExceeded, match=r"there:1 gave no response within the timeout of 0\.1 s"):
            await tasks[2]
        assert script.timeouts[1] is not None
        assert 10 < script.timeouts[1] <= 20
        await script.run_dry()
        assert await tasks[0]
        assert await tasks[1]
    assert len(script.flights) == 2


@pytest.mark.parametrize("error", [InvalidRequest("no"), ServerError("no"), RuntimeError("no"), DeadlineExceeded("no")])
async def test_what_is_said_of_a_message_is_not_said_of_its_calls(
    script: "Script", patient: None, error: Exception, ask: Ask, start: Start
) -> None:
    async with AsyncPoolClient(transport=script) as client:
        tasks = await start(*(ask(client, number) for number in range(5)))
        await script.end(0)
        await script.end(1, error)
        assert len(script.under_way) == 4
        await script.end(3, InvalidRequest("this one"))
        await script.run_dry()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(outcome is True for outcome in outcomes) == 4
    assert [str(outcome) for outcome in outcomes if outcome is not True] == ["this one"]


async def test_what_is_said_of_the_server_is_said_to_all(
    script: "Script", patient: None, ask: Ask, start: Start
) -> None:
    async with AsyncPoolClient(transport=script) as client:
        tasks = await start(*(ask(client, number) for number in range(5)))
        await script.end(0)
        await script.end(1, Overloaded("full", retry_after=7))
        first, *outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert first is True
    assert all(isinstance(outcome, Overloaded) and outcome.retry_after == 7 for outcome in outcomes)
    assert len(set(map(id, outcomes))) == 4


async def test_closing_ends_those_that_wait(
    script: "Script", patient: None, ask: Ask, start: Start, settled: Settled
) -> None:
    client = AsyncPoolClient(transport=script)
    tasks = await start(*(ask(client, number) for number in range(5)))
    await script.end(0)
    tasks += await start(*(ask(client, number) for number in range(5)))
    closing = asyncio.create_task(client.close())
    await settled()
    await script.close()  # gRPC's transport refuses what comes after it was closed; this one ends it
    await asyncio.wait_for(closing, 30)
    first, *outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert first is True
    assert all(isinstance(outcome, PoolError) for outcome in outcomes)


def test_a_loop_that_ends_in_the_middle_leaves_nothing_behind(
    script: "Script", patient: None, ask: Ask, start: Start
) -> None:
    async def leave() -> list[asyncio.Task[Any]]:
        client = AsyncPoolClient(transport=script)
        tasks = await start(*(ask(client, number) for number in range(5)))
        await script.end(0)
        return tasks + await start(*(ask(client, number) for number in range(5)))

    tasks = asyncio.run(leave())
    assert tasks[0].result()
    assert all(task.cancelled() for task in tasks[1:])
