"""The asyncio client: results, many tasks, cancellation, closing and event loops."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
from PIL import Image

from poolservice_client import AsyncPoolClient, GlobalAvgPool2d, InvalidRequest, MaxPool2d, PoolClient, PoolError
from poolservice_client._request.reader_threads import ReaderThreads

X = np.random.default_rng(3).standard_normal((3, 12, 10)).astype(np.float32)


@pytest.fixture
async def aclient(server_address: str) -> AsyncIterator[AsyncPoolClient]:
    async with AsyncPoolClient(server_address) as client:
        yield client


async def test_the_results_are_those_of_the_blocking_client(
    aclient: AsyncPoolClient, client: PoolClient, photograph: Path
) -> None:
    np.testing.assert_array_equal(await aclient.pool(X, MaxPool2d(2)), client.pool(X, MaxPool2d(2)), strict=True)
    data = await asyncio.to_thread(photograph.read_bytes)
    for x in (photograph, data, Image.open(photograph)):
        (a, b), execution = await aclient.pool(x, [MaxPool2d(9), GlobalAvgPool2d()], execution=True)
        np.testing.assert_array_equal(a, client.pool(photograph, MaxPool2d(9)), strict=True)
        np.testing.assert_array_equal(b, client.pool(photograph, GlobalAvgPool2d()), strict=True)
        assert execution.decode_microseconds > 0
    assert (await aclient.pool_image(photograph, MaxPool2d(2))).size == (256, 300)
    assert await aclient.server_info() == client.server_info()
    assert await aclient.health()
    assert repr(aclient) == repr(client).replace("PoolClient", "AsyncPoolClient")


async def test_each_of_many_tasks_gets_its_own_result(aclient: AsyncPoolClient) -> None:
    async def one(number: int) -> None:
        x = np.full((4, 8, 8 + number % 3), number, np.float32)
        y = await aclient.pool(x, GlobalAvgPool2d(), output="features")
        np.testing.assert_array_equal(y, np.full(4, number, np.float32), strict=True)

    await asyncio.gather(*(one(number) for number in range(500)))


async def test_an_invalid_call_does_not_affect_the_others(aclient: AsyncPoolClient) -> None:
    outcomes = await asyncio.gather(
        *(aclient.pool(X, MaxPool2d(99 if number == 7 else 2)) for number in range(20)), return_exceptions=True
    )
    assert [number for number, outcome in enumerate(outcomes) if isinstance(outcome, InvalidRequest)] == [7]
    assert sum(isinstance(outcome, np.ndarray) for outcome in outcomes) == 19


async def test_cancelling_a_task_cancels_the_call(
    serve: Callable[[Callable[[bytes, grpc.ServicerContext], bytes]], str],
) -> None:
    arrived, left = threading.Event(), threading.Event()

    def behaviour(request: bytes, context: grpc.ServicerContext) -> bytes:
        context.add_callback(left.set)
        arrived.set()
        left.wait(30)
        return b""

    async with AsyncPoolClient(serve(behaviour)) as aclient:
        call = asyncio.create_task(aclient.pool(X, MaxPool2d(2)))
        assert await asyncio.to_thread(arrived.wait, 10)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await asyncio.to_thread(left.wait, 10)


async def test_closing_ends_running_calls_without_cancelling_their_tasks(
    serve: Callable[[Callable[[bytes, grpc.ServicerContext], bytes]], str],
) -> None:
    arrived, left = threading.Event(), threading.Event()

    def behaviour(request: bytes, context: grpc.ServicerContext) -> bytes:
        context.add_callback(left.set)
        arrived.set()
        left.wait(30)
        return b""

    aclient = AsyncPoolClient(serve(behaviour))
    call = asyncio.create_task(aclient.pool(X, MaxPool2d(2)))
    assert await asyncio.to_thread(arrived.wait, 10)
    await aclient.close()
    with pytest.raises(PoolError, match="closed during this call"):
        await call
    await aclient.close()
    with pytest.raises(PoolError, match="this client is closed"):
        await aclient.pool(X, MaxPool2d(2))


def test_a_client_created_before_its_loop_belongs_to_the_first_loop_that_uses_it(server_address: str) -> None:
    aclient = AsyncPoolClient(server_address)

    async def use_and_close() -> None:
        assert (await aclient.pool(X, MaxPool2d(2))).shape == (3, 6, 5)
        with pytest.raises(PoolError, match="belongs to another event loop; make one for each loop"):
            await asyncio.to_thread(asyncio.run, aclient.health())
        await aclient.close()

    asyncio.run(use_and_close())


async def test_an_unused_client_can_be_closed(server_address: str) -> None:
    async with AsyncPoolClient(server_address):
        pass


async def test_threads_that_cannot_be_started_leave_their_places_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = ReaderThreads()

    def fail(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as failing:
        failing.setattr(threading.Thread, "start", fail)
        # More often than there may be threads.
        for _ in range(50):
            with pytest.raises(RuntimeError, match="can't start new thread"):
                await threads.run(int, "1")
    assert await asyncio.gather(*(threads.run(int, str(number)) for number in range(5))) == list(range(5))
