"""A transport whose messages end when a test says so, and tasks that call."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from poolservice_client import AsyncPoolClient, GlobalMaxPool2d, PoolError
from poolservice_client._coalescing import limits


async def _settled() -> None:
    """Let every task run to where it waits for what a test decides."""
    for _ in range(12):
        await asyncio.sleep(0)


class Script:
    """A transport whose messages stay under way until a test ends them, rightly or with an error."""

    def __init__(self, answer: Callable[[str, bytes], bytes]) -> None:
        self.flights: list[asyncio.Future[None]] = []
        self.methods: list[str] = []
        self.timeouts: list[float | None] = []
        self.second = asyncio.Event()
        self._answer = answer

    async def call(self, method: str, request: bytes, timeout: float | None) -> bytes:  # noqa: ASYNC109 - as transports have it
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.flights.append(ended)
        self.methods.append(method)
        self.timeouts.append(timeout)
        if len(self.flights) == 2:
            self.second.set()
        await ended
        return self._answer(method, request)

    async def close(self) -> None:
        for flight in self.under_way:
            flight.set_exception(PoolError("closed"))

    @property
    def under_way(self) -> list[asyncio.Future[None]]:
        return [flight for flight in self.flights if not flight.done()]

    async def end(self, number: int, error: BaseException | None = None) -> None:
        """End a message, and let whoever waits for it go on."""
        flight = self.flights[number]
        if error is None:
            flight.set_result(None)
        else:
            flight.set_exception(error)
        await _settled()

    async def run_dry(self) -> None:
        """End every message rightly until there is none."""
        while self.under_way:
            for flight in self.under_way:
                flight.set_result(None)
            await _settled()


async def _start(*calls: Awaitable[Any]) -> list[asyncio.Task[Any]]:
    tasks = [asyncio.ensure_future(call) for call in calls]
    await _settled()
    return tasks


async def _call(client: AsyncPoolClient, number: int, timeout: float | None = None, width: int = 4) -> bool:  # noqa: ASYNC109 - pool's own
    x = np.full((2, 4, width), number, np.float32)
    y = await client.pool(x, GlobalMaxPool2d(), timeout=timeout)
    return y.shape == (2, 1, 1) and bool((y == number).all()) and y.flags.owndata and y.flags.writeable


@pytest.fixture(scope="session")
def new_script(answer: Callable[[str, bytes], bytes]) -> Callable[[], Script]:
    return lambda: Script(answer)


@pytest.fixture
def script(new_script: Callable[[], Script]) -> Script:
    return new_script()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets calls gather until a test ends what they wait behind."""
    monkeypatch.setattr(limits, "MAX_WAIT_SECONDS", 60.0)


@pytest.fixture(scope="session")
def ask() -> Callable[..., Awaitable[bool]]:
    """Makes a client's call whose answer is a number, and tells whether it was."""
    return _call


@pytest.fixture(scope="session")
def start() -> Callable[..., Awaitable[list[asyncio.Task[Any]]]]:
    """Lets calls run, each in a task, to where they wait for what a test decides."""
    return _start


@pytest.fixture(scope="session")
def settled() -> Callable[[], Awaitable[None]]:
    """Lets every task run to where it waits for what a test decides."""
    return _settled
