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

# Far longer than leaving may take, even on a machine that is busy with other things.
HANGING_SECONDS = 10.0


@pytest.fixture
def hanging(start_server: Callable[..., Service], free_port: Callable[[], int]) -> "Hanging":
    """A server whose calls wait so long for company that they are under way when the map is left."""
    metrics = f"127.0.0.1:{free_port()}"
    server = start_server("--max-batch-delay", str(HANGING_SECONDS), "--metrics-address", metrics)
    return Hanging(server.address, metrics)


class Hanging:
    """Where it is, and how many calls are under way there."""

    def __init__(self, address: str, metrics: str) -> None:
        self.address = address
        self._metrics = metrics

    def calls(self) -> float:
        """Calls without an outcome."""
        with urllib.request.urlopen(f"http://{self._metrics}/metrics", timeout=10) as page:
            lines = page.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("poolservice_calls_in_progress"))

    def wait_for_calls(self, *, some: bool) -> None:
        """Wait until there are some, or none."""
        deadline = time.monotonic() + HANGING_SECONDS / 2
        while (self.calls() > 0) is not some:
            assert time.monotonic() < deadline, "no call came" if some else "the calls were not ended"


def one_is_bad() -> Iterator[Any]:
    """No end of good ones, and one that fails at once, so that something is given while the others are under way."""
    for number in itertools.count():
        if number == 5:
            yield object()
        # Large ones travel alone, small ones in packs: both are to be under way.
        yield np.full((3, 8, 8) if number % 2 else (3, 200, 200), number, np.float32)


def maps_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("poolservice-map")]


def test_a_break_ends_calls_and_threads(hanging: Hanging) -> None:
    with PoolClient(hanging.address) as client:
        started = time.monotonic()
        for y in client.map(one_is_bad(), GlobalAvgPool2d(), on_error="return", ordered=False):
            assert isinstance(y, InvalidRequest)
            hanging.wait_for_calls(some=True)
            assert maps_threads()
            break
        assert maps_threads() == []
        hanging.wait_for_calls(some=False)
        assert time.monotonic() - started < HANGING_SECONDS


def test_so_does_an_exception_in_the_loop(hanging: Hanging) -> None:
    def loop(client: PoolClient) -> None:
        for _ in client.map(one_is_bad(), GlobalAvgPool2d(), on_error="return", ordered=False):
            hanging.wait_for_calls(some=True)
            raise LookupError("enough")

    with PoolClient(hanging.address) as client:
        with pytest.raises(LookupError, match="enough") as caught:
            loop(client)
        # The traceback holds the loop's frame, and that the map.
        del caught
        hanging.wait_for_calls(some=False)
        assert maps_threads() == []


def test_so_does_closing_it_or_letting_it_go(hanging: Hanging) -> None:
    with PoolClient(hanging.address) as client:
        for end in ("close", "let go"):
            results = client.map(one_is_bad(), GlobalAvgPool2d(), on_error="return", ordered=False)
            next(results)
            hanging.wait_for_calls(some=True)
            if end == "close":
                results.close()
            del results
            assert maps_threads() == []
            hanging.wait_for_calls(some=False)


def test_so_does_a_failure_that_is_raised(hanging: Hanging) -> None:
    with PoolClient(hanging.address) as client:
        with pytest.raises(InvalidRequest):
            next(client.map(one_is_bad(), GlobalAvgPool2d(), ordered=False))
        assert maps_threads() == []
        hanging.wait_for_calls(some=False)


def test_so_does_an_interrupt_while_it_waits(hanging: Hanging) -> None:
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
            assert maps_threads() == []
            hanging.wait_for_calls(some=False)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_map_that_was_never_begun_costs_nothing(server_address: str) -> None:
    with PoolClient(server_address) as client:
        results = client.map(one_is_bad(), GlobalAvgPool2d())
        assert maps_threads() == []
        results.close()


def test_one_that_ran_to_its_end_leaves_no_thread(client: PoolClient) -> None:
    assert len(list(client.map([np.ones((3, 8, 8), np.float32)] * 100, GlobalAvgPool2d()))) == 100
    assert maps_threads() == []


def test_maps_of_one_client_run_side_by_side_and_within_one_another(client: PoolClient) -> None:
    def numbered(start: int) -> Iterator[NDArray[np.float32]]:
        return (np.full((3, 8, 8), start + number, np.float32) for number in range(300))

    outer = client.map(numbered(0), GlobalAvgPool2d(), output="features")
    inner = client.map(client.map(numbered(1000), GlobalAvgPool2d()), GlobalAvgPool2d(), output="features")
    for number, (a, b) in enumerate(zip(outer, inner, strict=True)):
        assert a[0] == number
        assert b[0] == 1000 + number
    assert maps_threads() == []


async def test_the_twin_ends_its_calls_and_tasks_too(hanging: Hanging) -> None:
    async with AsyncPoolClient(hanging.address) as client:
        before = asyncio.all_tasks()
        started = time.monotonic()
        async with aclosing(client.map(one_is_bad(), GlobalAvgPool2d(), on_error="return", ordered=False)) as results:
            async for y in results:
                assert isinstance(y, InvalidRequest)
                await asyncio.to_thread(hanging.wait_for_calls, some=True)
                break
        assert asyncio.all_tasks() == before
        await asyncio.to_thread(hanging.wait_for_calls, some=False)
        assert time.monotonic() - started < HANGING_SECONDS


async def test_so_does_a_break_alone(hanging: Hanging) -> None:
    async with AsyncPoolClient(hanging.address) as client:
        async for _ in client.map(one_is_bad(), GlobalAvgPool2d(), on_error="return", ordered=False):
            await asyncio.to_thread(hanging.wait_for_calls, some=True)
            break
        await asyncio.to_thread(hanging.wait_for_calls, some=False)


async def test_so_does_cancelling_who_waits(hanging: Hanging) -> None:
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
