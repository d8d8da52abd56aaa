"""Fixtures: a transport that does what a test says, a client with it, and threads that make calls."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from poolservice_client import GlobalMaxPool2d, PoolClient
from poolservice_client._coalescing import limits
from poolservice_client._transport.cancellation import Cancellation


class ScriptedTransport:
    """A transport that runs `on_message` with the number of each message, and responds unless that raises."""

    def __init__(self, respond: Callable[[str, bytes], bytes]) -> None:
        self.on_message: Callable[[int], None] = lambda number: None
        self.methods: list[str] = []
        self.timeouts: list[float | None] = []
        self.closed = threading.Event()
        self._respond = respond
        self._holds: dict[int, threading.Event] = {}
        self._sent = threading.Condition()

    def call(
        self,
        method: str,
        request: bytes,
        timeout: float | None,
        cancellation: Cancellation | None = None,
        partial_retry: object = None,
        traces: object = None,
    ) -> bytes:
        with self._sent:
            number = len(self.methods)
            self.methods.append(method)
            self.timeouts.append(timeout)
            self._sent.notify_all()
        if number in self._holds:
            assert self._holds[number].wait(60)
        self.on_message(number)
        return self._respond(method, request)

    def close(self) -> None:
        self.closed.set()

    def hold(self, number: int) -> threading.Event:
        """Hold a future message, by its number from 0, until the returned event is set."""
        return self._holds.setdefault(number, threading.Event())

    def wait_until_sent(self, count: int) -> None:
        """Block until so many messages were sent."""
        with self._sent:
            assert self._sent.wait_for(lambda: len(self.methods) >= count, 60)

    def release_all(self) -> None:
        for hold in self._holds.values():
            hold.set()
        self.closed.set()


@pytest.fixture
def transport(respond: Callable[[str, bytes], bytes]) -> ScriptedTransport:
    return ScriptedTransport(respond)


@pytest.fixture
def client(transport: ScriptedTransport) -> Iterator[PoolClient]:
    with PoolClient("there:1", transport=transport) as client:
        yield client


@pytest.fixture
def until_waiting(
    client: PoolClient, watch_waiting: Callable[[PoolClient], Callable[[int], None]]
) -> Callable[[int], None]:
    """Blocks until so many calls wait in the client's coalescers."""
    return watch_waiting(client)


@pytest.fixture
def threads(transport: ScriptedTransport) -> Iterator[ThreadPoolExecutor]:
    """Threads for calls. After the test all held messages are released, so that no thread remains blocked."""
    with ThreadPoolExecutor(80) as threads:
        yield threads
        transport.release_all()


@pytest.fixture
def long_max_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets calls wait for as long as it takes to start their threads."""
    monkeypatch.setattr(limits, "MAX_WAIT_SECONDS", 60.0)
    monkeypatch.setattr(limits, "OVERLAP_SECONDS", 60.0)


@pytest.fixture
def call(client: PoolClient) -> Callable[..., bool]:
    """Makes a call with the given number, and returns True if the result is right. Another width is another shape."""

    def make(number: int, timeout: float | None = None, width: int = 4) -> bool:
        x = np.full((2, 4, width), number, np.float32)
        y = client.pool(x, GlobalMaxPool2d(), timeout=timeout)
        return y.shape == (2, 1, 1) and bool((y == number).all())

    return make
