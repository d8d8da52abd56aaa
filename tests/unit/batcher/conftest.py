"""What the batcher is tried with: a runner that shows what it was given, and where, and can be held up."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from poolservice_server.batcher import Request

MakeWork = Callable[..., Request]


class Answer(NamedTuple):
    result: Any
    device: str
    batch_size: int


class Runner:
    """Echoes its payloads; batches of key "held" wait until they are let go.

    Args:
        seconds: what each item takes of the processor.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self.batches: list[list[Any]] = []
        self.threads: list[threading.Thread] = []
        self.let_go = threading.Event()
        self._seconds = seconds
        self._started = threading.Semaphore(0)

    def __call__(self, key: str, payloads: list[Any]) -> list[Answer | Exception]:
        until = time.perf_counter() + self._seconds * len(payloads)
        self.batches.append(list(payloads))
        self.threads.append(threading.current_thread())
        self._started.release()
        if key == "held":
            assert self.let_go.wait(60)
        while time.perf_counter() < until:
            pass
        return [
            payload if isinstance(payload, Exception) else Answer(payload, "test", len(payloads))
            for payload in payloads
        ]

    async def has_started(self) -> None:
        """Wait until one more batch has started, on whichever thread."""
        assert await asyncio.to_thread(self._started.acquire, timeout=60)


@pytest.fixture
def runner() -> Iterator[Runner]:
    runner = Runner()
    yield runner
    # A test that failed leaves no thread behind.
    runner.let_go.set()


@pytest.fixture
def runner_that_takes() -> Callable[[float], Runner]:
    """Makes runners of which each item takes so many seconds."""
    return Runner


@pytest.fixture(scope="session")
def held() -> MakeWork:
    """Makes work that runs on a thread, until the runner is told to let it go."""
    return lambda payload, *, nbytes=100_000, deadline=None: Request("held", payload, nbytes, deadline)


@pytest.fixture(scope="session")
def small() -> MakeWork:
    """Makes work of ten bytes."""
    return lambda payload, *, key="small": Request(key, payload, 10)
