"""A map that is left early leaves nothing behind: no thread, no task, no call."""

import asyncio
import itertools
import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import aclosing
from types import FrameType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from poolservice_client import AsyncPoolClient, GlobalAvgPool2d, InvalidRequest, PoolClient
from poolservice_server.testing import Service

# Far longer than leaving may take, even on a busy machine.
HANGING_SECONDS = 10.0


@pytest.fixture
def hanging(start_server: Callable[..., Service], free_port: Callable[[], int]) -> "Hanging":
    """A server whose requests wait for batch-mates so long that their calls are running when the map is left."""
    metrics = f"127.0.0.1:{free_port()}"
    server = start_server("--max-batch-delay", str(HANGING_SECONDS), "--metrics-address", metrics)
    return Hanging(server.address, metrics)


class Hanging:
    """The address of the server, and the number of its running calls."""

    def __init__(self, address: str, metrics: str) -> None:
        self.address = address
        self._metrics = metrics

    def calls(self) -> float:
        """Return the number of calls without an outcome."""
        with urllib.request.urlopen(f"http://{self._metrics}/metrics", timeout=10) as page:
            lines = page.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("poolservice_calls_in_progress"))

    def wait_for_calls(self, *, some: bool) -> None:
        """Wait until calls are running, or until none is."""
        deadline = time.monotonic() + HANGING_SECONDS / 2
        while (self.calls() > 0) is not some:
            assert time.monotonic() < deadline, "no call arrived" if some else "the calls were not cancelled"


def one_is_bad() -> Iterator[Any]:
    """Good inputs without end, and a bad one that fails immediately, so that it is yielded while calls are running."""
    for number in itertools.count():
        if number == 5:
            yield object()
        # Large inputs have messages of their own, small ones share messages: calls of both sorts must be running.
        yield np.full((3, 8, 8) if number % 2 else (3, 200, 200), number, np.float32)


def map_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("poolservice-map")]


def test_a_break_ends_calls_and_threads(hanging: Hanging) -> None:
    with PoolClient(hanging.address) as client:
        started = time.monotonic()
        for item in client.map(one_is_bad(), GlobalAvgPool2d(), items=True, ordered=False):
            assert isinstance(item.error, InvalidRequest)
            hanging.wait_for_calls(some=True)
            assert map_threads()
            break
        assert map_threads() == []
        hanging.wait_for_calls(some=False)
        assert time.monotonic() - started < HANGING_SECONDS


def test_an_exception_in_the_loop_ends_calls_and_threads(hanging: Hanging) -> None:
    def loop(client: PoolClient) -> None:
        for _ in client.map(one_is_bad(), GlobalAvgPool2d(), items=True, ordered=False):
            hanging.wait_for_calls(some=True)
            raise LookupError("enough")

    with PoolClient(hanging.address) as client:
        with pytest.raises(LookupError, match="enough") as caught:
            loop(client)
        # The traceback refers to the loop's frame, and the frame to the map.
        del caught
        hanging.wait_for_calls(some=False)
        assert map_threads() == []


@pytest.mark.parametrize("end", ["close", "drop"])
def test_closing_or_dropping_the_generator_ends_calls_and_threads(hanging: Hanging, end: str) -> None:
    with PoolClient(hanging.address) as client:
        results = client.map(one_is_bad(), GlobalAvgPool2d(), items=True, ordered=False)
        next(results)
        hanging.wait_for_calls(some=True)
        if end == "close":
            results.close()
        del results
        assert map_threads() == []
        hanging.wait_for_calls(some=False)


def test_a_raised_failure_ends_calls_and_threads(hanging: Hanging) -> None:
    with PoolClient(hanging.address) as client:
        with pytest.raises(InvalidRequest):
            next(client.map(one_is_bad(), GlobalAvgPool2d(), ordered=False))
        assert map_threads() == []
        hanging.wait_for_calls(some=False)


def test_an_interrupt_while_the_map_waits_ends_calls_and_threads(hanging: Hanging) -> None:
    def interrupted(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupted)
    try:
        with PoolClient(hanging.address) as client:
            results = client.map(iter([np.ones((3, 8, 8), np.float32)] * 5), GlobalAvgPool2d())
            signal.setitimer(signal.ITIMER_REAL, 1.0)
            started = time.monotonic()
            with pytest.raises(KeyboardInterrupt):
                next(results)
            assert time.monotonic() - started < HANGING_SECONDS / 2
            assert map_threads() == []
            hanging.wait_for_calls(some=False)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_map_that_never_started_has_no_threads(server_address: str) -> None:
    with PoolClient(server_address) as client:
        results = client.map(one_is_bad(), GlobalAvgPool2d())
        assert map_threads() == []
        results.close()


def test_a_map_that_ran_to_its_end_leaves_no_thread(client: PoolClient) -> None:
    assert len(list(client.map([np.ones((3, 8, 8), np.float32)] * 100, GlobalAvgPool2d()))) == 100
    assert map_threads() == []


def test_maps_of_one_client_run_concurrently_and_nested(client: PoolClient) -> None:
    def numbered(start: int) -> Iterator[NDArray[np.float32]]:
        return (np.full((3, 8, 8), start + number, np.float32) for number in range(300))

    outer = client.map(numbered(0), GlobalAvgPool2d(), output="features")
    inner = client.map(client.map(numbered(1000), GlobalAvgPool2d()), GlobalAvgPool2d(), output="features")
    for number, (a, b) in enumerate(zip(outer, inner, strict=True)):
        assert a[0] == number
        assert b[0] == 1000 + number
    assert map_threads() == []


async def test_closing_an_asyncio_map_ends_its_calls_and_tasks(hanging: Hanging) -> None:
    async with AsyncPoolClient(hanging.address) as client:
        before = asyncio.all_tasks()
        started = time.monotonic()
        async with aclosing(client.map(one_is_bad(), GlobalAvgPool2d(), items=True, ordered=False)) as results:
            async for item in results:
                assert isinstance(item.error, InvalidRequest)
                await asyncio.to_thread(hanging.wait_for_calls, some=True)
                break
        assert asyncio.all_tasks() == before
        await asyncio.to_thread(hanging.wait_for_calls, some=False)
        assert time.monotonic() - started < HANGING_SECONDS


async def test_a_break_out_of_an_asyncio_map_ends_its_calls(hanging: Hanging) -> None:
    async with AsyncPoolClient(hanging.address) as client:
        async for _ in client.map(one_is_bad(), GlobalAvgPool2d(), items=True, ordered=False):
            await asyncio.to_thread(hanging.wait_for_calls, some=True)
            break
        await asyncio.to_thread(hanging.wait_for_calls, some=False)


async def test_cancelling_the_task_that_waits_ends_calls_and_tasks(hanging: Hanging) -> None:
    async with AsyncPoolClient(hanging.address) as client:
        before = asyncio.all_tasks()

        async def consume() -> None:
            async for _ in client.map([np.ones((3, 8, 8), np.float32)] * 5, GlobalAvgPool2d()):
                pass

        task = asyncio.create_task(consume())
        await asyncio.to_thread(hanging.wait_for_calls, some=True)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == before
        await asyncio.to_thread(hanging.wait_for_calls, some=False)
