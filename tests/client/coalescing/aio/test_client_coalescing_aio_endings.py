"""Coalesced calls of tasks: each has its own cancellation, deadline and error."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest

from poolservice_client import AsyncPoolClient, DeadlineExceeded, InvalidRequest, Overloaded, PoolError, ServerError

if TYPE_CHECKING:
    from tests.client.coalescing.aio.conftest import ScriptedTransport

Call = Callable[..., Awaitable[bool]]
Start = Callable[..., Awaitable[list[asyncio.Task[Any]]]]
Settle = Callable[[], Awaitable[None]]


async def test_cancelling_the_first_call_cancels_no_other(
    transport: "ScriptedTransport", long_max_wait: None, call: Call, start: Start, settle: Settle
) -> None:
    async with AsyncPoolClient(transport=transport) as client:
        first, *others = await start(*(call(client, number) for number in range(5)))
        first.cancel()
        await settle()
        assert transport.messages[0].cancelled()
        await transport.end_all()
        assert await asyncio.gather(*others) == [True] * 4
        assert first.cancelled()
    assert len(transport.messages) == 2


async def test_a_message_is_cancelled_with_the_last_of_its_calls(
    transport: "ScriptedTransport", long_max_wait: None, call: Call, start: Start, settle: Settle
) -> None:
    async with AsyncPoolClient(transport=transport) as client:
        tasks = await start(*(call(client, number) for number in range(5)))
        tasks[1].cancel()
        await transport.end(0)
        tasks[2].cancel()
        await settle()
        assert not transport.messages[1].done()
        tasks[3].cancel()
        tasks[4].cancel()
        await settle()
        assert transport.messages[1].cancelled()
        assert await tasks[0]
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks[1:])
        (last,) = await start(call(client, 7))
        await transport.end_all()
        assert await last
    assert len(transport.messages) == 3


async def test_a_message_that_is_cancelled_before_it_is_sent_delays_no_later_call(
    transport: "ScriptedTransport", long_max_wait: None, call: Call, start: Start
) -> None:
    async with AsyncPoolClient(transport=transport) as client:
        first, *others = await start(*(call(client, number) for number in range(5)))
        # The first call ends and starts a task for the message of the others, which are cancelled before it runs.
        transport.messages[0].set_result(None)
        for task in others:
            task.cancel()
        await asyncio.wait(others)
        assert await first
        assert len(transport.messages) == 1
        (last,) = await start(call(client, 7))
        assert len(transport.messages) == 2
        await transport.end_all()
        assert await last


async def test_cancelling_the_task_of_the_coalescer_loses_no_call(
    transport: "ScriptedTransport", long_max_wait: None, call: Call, start: Start, settle: Settle
) -> None:
    async with AsyncPoolClient(transport=transport) as client:
        before = asyncio.all_tasks()
        tasks = await start(*(call(client, number) for number in range(5)))
        await transport.end(0)
        tasks += await start(*(call(client, number) for number in range(5)))
        for task in asyncio.all_tasks() - before - set(tasks):
            task.cancel()
        await settle()
        await transport.end_all()
        assert await asyncio.gather(*tasks) == [True] * 10
    # The coalescer starts no further task, since the loop may be shutting down. Each of the nine is sent in its own.
    assert len(transport.messages) == 2 + 9


async def test_each_call_has_its_own_deadline(
    transport: "ScriptedTransport", long_max_wait: None, call: Call, start: Start
) -> None:
    async with AsyncPoolClient("there:1", transport=transport) as client:
        tasks = await start(call(client, 0), call(client, 1, 20), call(client, 2, 0.1), call(client, 3, 0.03))
        with pytest.raises(DeadlineExceeded, match=r"there:1 gave no response within the timeout of 0\.03 s"):
            await tasks[3]
        await transport.end(0)
        with pytest.raises(DeadlineExceeded, match=r"there:1 gave no response within the timeout of 0\.1 s"):
            await tasks[2]
        assert transport.timeouts[1] is not None
        assert 10 < transport.timeouts[1] <= 20
        await transport.end_all()
        assert await tasks[0]
        assert await tasks[1]
    assert len(transport.messages) == 2


@pytest.mark.parametrize("error", [InvalidRequest("no"), ServerError("no"), RuntimeError("no"), DeadlineExceeded("no")])
async def test_an_error_of_the_message_is_not_an_error_of_its_calls(
    transport: "ScriptedTransport", long_max_wait: None, error: Exception, call: Call, start: Start
) -> None:
    async with AsyncPoolClient(transport=transport) as client:
        tasks = await start(*(call(client, number) for number in range(5)))
        await transport.end(0)
        await transport.end(1, error)
        assert len(transport.in_flight) == 4
        await transport.end(3, InvalidRequest("this one"))
        await transport.end_all()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(outcome is True for outcome in outcomes) == 4
    assert [str(outcome) for outcome in outcomes if outcome is not True] == ["this one"]


async def test_an_error_of_the_server_is_an_error_of_all_calls(
    transport: "ScriptedTransport", long_max_wait: None, call: Call, start: Start
) -> None:
    async with AsyncPoolClient(transport=transport) as client:
        tasks = await start(*(call(client, number) for number in range(5)))
        await transport.end(0)
        await transport.end(1, Overloaded("full", retry_after=7))
        first, *outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert first is True
    assert all(isinstance(outcome, Overloaded) and outcome.retry_after == 7 for outcome in outcomes)
    assert len(set(map(id, outcomes))) == 4


async def test_closing_ends_waiting_calls(
    transport: "ScriptedTransport", long_max_wait: None, call: Call, start: Start, settle: Settle
) -> None:
    client = AsyncPoolClient(transport=transport)
    tasks = await start(*(call(client, number) for number in range(5)))
    await transport.end(0)
    tasks += await start(*(call(client, number) for number in range(5)))
    closing = asyncio.create_task(client.close())
    await settle()
    # The real transport rejects calls after it was closed. This one must be closed again to end them.
    await transport.close()
    await asyncio.wait_for(closing, 30)
    first, *outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert first is True
    assert all(isinstance(outcome, PoolError) for outcome in outcomes)


def test_all_calls_are_cancelled_if_the_loop_ends(
    transport: "ScriptedTransport", long_max_wait: None, call: Call, start: Start
) -> None:
    async def leave() -> list[asyncio.Task[Any]]:
        client = AsyncPoolClient(transport=transport)
        tasks = await start(*(call(client, number) for number in range(5)))
        await transport.end(0)
        return tasks + await start(*(call(client, number) for number in range(5)))

    tasks = asyncio.run(leave())
    assert tasks[0].result()
    assert all(task.cancelled() for task in tasks[1:])
