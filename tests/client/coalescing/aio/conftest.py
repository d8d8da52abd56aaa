"""Fixtures: a transport whose messages end when a test says so, and tasks that make calls."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from poolservice_client import AsyncPoolClient, GlobalMaxPool2d, PoolError
from poolservice_client._coalescing import limits


async def _settle() -> None:
    """Let every task run until it waits for something that the test decides."""
    for _ in range(12):
        await asyncio.sleep(0)


class ScriptedTransport:
    """A transport that holds each message until the test ends it, with a response or an error."""

    def __init__(self, respond: Callable[[str, bytes], bytes]) -> None:
        self.messages: list[asyncio.Future[None]] = []
        self.methods: list[str] = []
        self.timeouts: list[float | None] = []
        self.second_sent = asyncio.Event()
        self._respond = respond

    async def call(
        self,
        method: str,
        request: bytes,
        timeout: float | None,  # noqa: ASYNC109 - the signature of AsyncTransport
        partial_retry: object = None,
        traces: object = None,
    ) -> bytes:
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.messages.append(ended)
        self.methods.append(method)
        self.timeouts.append(timeout)
        if len(self.messages) == 2:
            self.second_sent.set()
        await ended
        return self._respond(method, request)

    async def close(self) -> None:
        for message in self.in_flight:
            message.set_exception(PoolError("closed"))

    @property
    def in_flight(self) -> list[asyncio.Future[None]]:
        return [message for message in self.messages if not message.done()]

    async def end(self, number: int, error: BaseException | None = None) -> None:
        """End a message, with a response or an error, and let its callers continue."""
        message = self.messages[number]
        if error is None:
            message.set_result(None)
        else:
            message.set_exception(error)
        await _settle()

    async def end_all(self) -> None:
        """Respond to messages until none is in flight."""
        while self.in_flight:
            for message in self.in_flight:
                message.set_result(None)
            await _settle()


async def _start(*calls: Awaitable[Any]) -> list[asyncio.Task[Any]]:
    tasks = [asyncio.ensure_future(call) for call in calls]
    await _settle()
    return tasks


async def _call(client: AsyncPoolClient, number: int, timeout: float | None = None, width: int = 4) -> bool:  # noqa: ASYNC109 - as in pool
    x = np.full((2, 4, width), number, np.float32)
    y = await client.pool(x, GlobalMaxPool2d(), timeout=timeout)
    return y.shape == (2, 1, 1) and bool((y == number).all()) and y.flags.owndata and y.flags.writeable


@pytest.fixture(scope="session")
def new_transport(respond: Callable[[str, bytes], bytes]) -> Callable[[], ScriptedTransport]:
    return lambda: ScriptedTransport(respond)


@pytest.fixture
def transport(new_transport: Callable[[], ScriptedTransport]) -> ScriptedTransport:
    return new_transport()


@pytest.fixture
def long_max_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets calls wait until the test ends the message before them."""
    monkeypatch.setattr(limits, "MAX_WAIT_SECONDS", 60.0)
    monkeypatch.setattr(limits, "OVERLAP_SECONDS", 60.0)


@pytest.fixture(scope="session")
def call() -> Callable[..., Awaitable[bool]]:
    """Makes a call with the given number, and returns True if the result is right. Another width is another shape."""
    return _call


@pytest.fixture(scope="session")
def start() -> Callable[..., Awaitable[list[asyncio.Task[Any]]]]:
    """Starts a task per call, and lets them run until they wait for something that the test decides."""
    return _start


@pytest.fixture(scope="session")
def settle() -> Callable[[], Awaitable[None]]:
    """Lets every task run until it waits for something that the test decides."""
    return _settle
