"""Two messages in flight over gRPC: tasks that are cancelled, and an event loop that ends."""

import asyncio
import gc
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from poolservice_client import AsyncPoolClient, GlobalMaxPool2d

if TYPE_CHECKING:
    from tests.client.coalescing.real.conftest import HoldingServer

FULL = 4


async def test_cancelling_calls_of_one_message_affects_no_other(server: "HoldingServer") -> None:
    async with AsyncPoolClient(server.address) as client:
        x = np.ones((2, 4, 4), np.float32)

        def call() -> "asyncio.Task[Any]":
            return asyncio.create_task(client.pool(x, GlobalMaxPool2d()))

        first = call()
        await server.received(1)
        others = [call() for _ in range(FULL)]
        await server.received(2)
        others[0].cancel()
        await asyncio.wait(others[:1])
        assert not server.messages[1].ended.is_set()
        for task in others[1:]:
            task.cancel()
        await asyncio.wait(others)
        # The last call takes its message with it, and the first message is still in flight.
        assert await asyncio.to_thread(server.messages[1].ended.wait, 30)
        assert all(task.cancelled() for task in others)
        server.messages[0].release()
        assert (await first == 1).all()


async def test_a_cancelled_call_keeps_no_payload(server: "HoldingServer") -> None:
    async with AsyncPoolClient(server.address) as client:
        first = asyncio.create_task(client.pool(np.ones((2, 4, 4), np.float32), GlobalMaxPool2d()))
        await server.received(1)
        arrays = [np.ones((2, 4, 4), np.float32) for _ in range(FULL + 1)]
        tasks = [asyncio.create_task(client.pool(x, GlobalMaxPool2d())) for x in arrays]
        await server.received(2)
        # One call of the second message, and the one that still waits.
        kept = [weakref.ref(arrays[1]), weakref.ref(arrays[-1])]
        for task in (tasks[1], tasks[-1]):
            task.cancel()
        await asyncio.wait([tasks[1], tasks[-1]])
        del arrays, tasks[1], tasks[-1], task
        gc.collect()
        assert [reference() for reference in kept] == [None, None]
        server.release_all()
        await asyncio.gather(first, *tasks)


def test_an_event_loop_may_end_with_two_messages_in_flight(
    server: "HoldingServer", capfd: pytest.CaptureFixture[str]
) -> None:
    problems: list[dict[str, Any]] = []

    async def leave() -> list["asyncio.Task[Any]"]:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: problems.append(context))
        client = AsyncPoolClient(server.address)
        x = np.ones((2, 4, 4), np.float32)
        tasks = [asyncio.create_task(client.pool(x, GlobalMaxPool2d()))]
        await server.received(1)
        tasks += [asyncio.create_task(client.pool(x, GlobalMaxPool2d())) for _ in range(FULL + 2)]
        await server.received(2)
        return tasks

    tasks = asyncio.run(leave())
    assert all(task.cancelled() for task in tasks)
    for message in server.messages:
        assert message.ended.wait(30)
    gc.collect()
    assert problems == []
    assert "never retrieved" not in capfd.readouterr().err
