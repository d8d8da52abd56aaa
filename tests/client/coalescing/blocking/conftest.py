"""A transport that does what a test says, a client on it, and threads that call."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from poolservice_client import GlobalMaxPool2d, PoolClient
from poolservice_client._coalescing import limits
from poolservice_client._transport.cancellation import Cancellation


class Script:
    """Does what a test says with each message, counted from 0, and answers it if that returns."""

    def __init__(self, answer: Callable[[str, bytes], bytes]) -> None:
        self.on: Callable[[int], None] = lambda number: None
        self.sent: list[str] = []
        self.timeouts: list[float | None] = []
        self.closed = threading.Event()
        self._answer = answer
        self._holds: dict[int, threading.Event] = {}
        self._has_come = threading.Condition()

    def call(
        self, method: str, request: bytes, timeout: float | None, cancellation: Cancellation | None = None
    ) -> bytes:
        with self._has_come:
            number = len(self.sent)
            self.sent.append(method)
            self.timeouts.append(timeout)
            self._has_come.notify_all()
        if number in self._holds:
            assert self._holds[number].wait(60)
        self.on(number)
        return self._answer(method, request)

    def close(self) -> None:
        self.closed.set()

    def hold(self, number: int) -> threading.Event:
        """Let a message that is yet to come wait for an event."""
        return self._holds.setdefault(number, threading.Event())

    def until_sent(self, count: int) -> None:
        """Wait until so many messages have come."""
        with self._has_come:
            assert self._has_come.wait_for(lambda: len(self.sent) >= count, 60)

    def let_all_go(self) -> None:
        for hold in self._holds.values():
            hold.set()
        self.closed.set()


@pytest.fixture
def script(answer: Callable[[str, bytes], bytes]) -> Script:
    return Script(answer)


@pytest.fixture
def client(script: Script) -> Iterator[PoolClient]:
    with PoolClient("there:1", transport=script) as client:
        yield client


@pytest.fixture
def until_waiting(client: PoolClient, watch: Callable[[PoolClient], Callable[[int], None]]) -> Callable[[int], None]:
    """Waits until so many calls stand in the client's line."""
    return watch(client)


@pytest.fixture
def threads(script: Script) -> Iterator[ThreadPoolExecutor]:
    """Threads to call in; after a test, whether it failed or not, none of them waits for more."""
    with ThreadPoolExecutor(80) as threads:
        yield threads
        script.let_all_go()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets calls gather for as long as it takes to start their threads."""
    monkeypatch.setattr(limits, "MAX_WAIT_SECONDS", 60.0)


@pytest.fixture
def ask(client: PoolClient) -> Callable[..., bool]:
    """Makes a call whose answer is a number, and tells whether it was; of another width it is of another kind."""

    def call(number: int, timeout: float | None = None, width: int = 4) -> bool:
        x = np.full((2, 4, width), number, np.float32)
        y = client.pool(x, GlobalMaxPool2d(), timeout=timeout)
        return y.shape == (2, 1, 1) and bool((y == number).all())

    return call
