"""Fixtures of the batcher's tests: a runner that records what it receives and that tests can block."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, NamedTuple

import pytest

from poolservice_server.batcher import Batcher, Request
from poolservice_server.stop import Stop

MakeRequest = Callable[..., Request]
AllReleased = Callable[[Batcher], Awaitable[None]]


class Result(NamedTuple):
    result: Any
    device: str
    batch_size: int


class Runner:
    """Returns its payloads as results. Batches of key "blocked" wait until `release` is set.

    Args:
        seconds: CPU time that each payload takes.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self.batches: list[list[Any]] = []
        self.threads: list[threading.Thread] = []
        self.release = threading.Event()
        self._seconds = seconds
        self._started = threading.Semaphore(0)

    def __call__(self, key: str, payloads: list[Any], stop: Stop) -> list[Result | Exception]:
        until = time.perf_counter() + self._seconds * len(payloads)
        self.batches.append(list(payloads))
        self.threads.append(threading.current_thread())
        self._started.release()
        if key == "blocked":
            assert self.release.wait(60)
        while time.perf_counter() < until:
            pass
        return [
            payload if isinstance(payload, Exception) else Result(payload, "test", len(payloads))
            for payload in payloads
        ]

    async def wait_for_start(self) -> None:
        """Wait until one more batch has started, on any thread."""
        assert await asyncio.to_thread(self._started.acquire, timeout=60)

    def ran_inline(self) -> list[bool]:
        """Return for each batch whether it ran on the event loop, whose thread is the test's."""
        return [thread is threading.current_thread() for thread in self.threads]


@pytest.fixture
def runner() -> Iterator[Runner]:
    runner = Runner()
    yield runner
    # A test that fails must not leave a blocked thread behind.
    runner.release.set()


@pytest.fixture
def slow_runner() -> Callable[[float], Runner]:
    """Return a function that makes runners whose payloads take this many seconds each."""
    return Runner


@pytest.fixture(scope="session")
def blocked() -> MakeRequest:
    """Return a function that makes requests that run on a thread until the test releases the runner."""
    return lambda payload, *, nbytes=100_000, deadline=None: Request("blocked", payload, nbytes, deadline)


@pytest.fixture(scope="session")
def small() -> MakeRequest:
    """Return a function that makes requests of ten bytes."""
    return lambda payload, *, key="small": Request(key, payload, 10)


@pytest.fixture
def all_released() -> AllReleased:
    """Return a function that waits until a batcher has released every request, then drains it.

    No future announces the end of a batch whose callers have all left, and draining does not wait for it.
    """

    async def wait(batcher: Batcher) -> None:
        until = time.monotonic() + 60
        while batcher.snapshot().admitted_requests:
            assert time.monotonic() < until
            await asyncio.sleep(0)
        await batcher.drain()

    return wait
