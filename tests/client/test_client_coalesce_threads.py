"""What threads that share a line do to one another: nothing. Deadlines, interrupts, failures, closing, forks."""

import multiprocessing
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from poolservice import codec
from poolservice.v1 import pool_pb2
from poolservice_client import (
    DeadlineExceeded,
    GlobalMaxPool2d,
    InvalidRequest,
    Overloaded,
    PoolClient,
    PoolError,
    ServerError,
    _coalesce,
)
from poolservice_client._cancellation import Cancellation

BATCH = "/poolservice.v1.PoolService/PoolBatch"
PATIENCE = _coalesce.PATIENCE_SECONDS


def highest(request: codec.Request) -> bytes:
    """A PoolResponse with the maximum of each channel, as a server would write it."""
    shape = codec.parse_head(request.head).tensor.shape
    high = np.frombuffer(request.data, np.float32).reshape(shape).max((-2, -1), keepdims=True)
    head = pool_pb2.Tensor(dtype=pool_pb2.DATA_TYPE_FLOAT32, shape=high.shape).SerializeToString()
    execution = pool_pb2.Execution(device="cpu", batch_size=1)
    return codec.encode_response(execution, [codec.Result(codec.Value("tensor", head, high.tobytes()))])


def answer(method: str, message: bytes) -> bytes:
    if method != BATCH:
        return highest(codec.decode_request(message))
    ok = codec.decode_batch_response(b"\x0a\x00")[0][0]
    return codec.encode_batch_response([(ok, highest(request)) for request in codec.decode_batch_request(message)])


class Script:
    """A transport that does what a test says with each message, counted from 0, and answers it if that returns."""

    def __init__(self) -> None:
        self.on: Callable[[int, str, float | None], None] = lambda number, method, timeout: None
        self.sent: list[str] = []
        self.closed = threading.Event()
        self._lock = threading.Lock()

    def call(
        self, method: str, request: bytes, timeout: float | None, cancellation: Cancellation | None = None
    ) -> bytes:
        with self._lock:
            number = len(self.sent)
            self.sent.append(method)
        self.on(number, method, timeout)
        return answer(method, request)

    def close(self) -> None:
        self.closed.set()


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def client(script: Script) -> Iterator[PoolClient]:
    with PoolClient("there:1", transport=script) as client:
        yield client


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_coalesce, "PATIENCE_SECONDS", 60.0)


def ask(client: PoolClient, number: int, timeout: float | None = None, width: int = 4) -> bool:
    """Make a call whose answer is `number`; whether it was."""
    x = np.full((2, 4, width), number, np.float32)
    return bool((client.pool(x, GlobalMaxPool2d(), timeout=timeout) == number).all())


def hold_the_first(release: threading.Event) -> Callable[[int, str, float | None], None]:
    """Lets the first message wait for an event."""

    def on(number: int, method: str, timeout: float | None) -> None:
        assert number or release.wait(60)

    return on


def until_waiting(client: PoolClient, count: int) -> None:
    assert client._lines is not None
    while sum(map(len, client._lines)) < count:
        time.sleep(0.001)


def test_a_call_that_has_no_company_goes_at_once(client: PoolClient, script: Script) -> None:
    assert all(ask(client, number) for number in range(20))
    assert len(script.sent) == 20


def test_who_waits_ends_with_its_own_deadline(client: PoolClient, script: Script, patient: None) -> None:
    release = threading.Event()
    script.on = hold_the_first(release)
    with ThreadPoolExecutor(8) as threads:
        first = threads.submit(ask, client, 1)
        while not script.sent:
            time.sleep(0.001)
        others = [threads.submit(ask, client, number) for number in (2, 3)]
        until_waiting(client, 2)
        with pytest.raises(DeadlineExceeded, match=r"there:1 gave no answer within the timeout of 0\.05 s"):
            ask(client, 4, timeout=0.05)
        release.set()
        assert first.result(30)
        assert all(other.result(30) for other in others)
    assert len(script.sent) == 2


def test_who_was_sent_ends_with_its_own_deadline(client: PoolClient, script: Script, patient: None) -> None:
    hold = [threading.Event(), threading.Event()]
    timeouts: list[float | None] = []

    def on(number: int, method: str, timeout: float | None) -> None:
        timeouts.append(timeout)
        assert hold[number].wait(60)

    script.on = on
    with ThreadPoolExecutor(8) as threads:
        first = threads.submit(ask, client, 1)
        while not script.sent:
            time.sleep(0.001)
        leader = threads.submit(ask, client, 2)
        until_waiting(client, 1)
        hasty = threads.submit(ask, client, 3, 1.5)
        other = threads.submit(ask, client, 4)
        until_waiting(client, 3)
        hold[0].set()
        assert first.result(30)
        with pytest.raises(DeadlineExceeded, match=r"within the timeout of 1\.5 s"):
            hasty.result(30)
        hold[1].set()
        assert leader.result(30)
        assert other.result(30)
    assert timeouts[1] is not None
    assert timeouts[1] > 20


def test_a_leaders_deadline_is_not_that_of_those_it_carries(client: PoolClient, script: Script, patient: None) -> None:
    release = threading.Event()

    def on(number: int, method: str, timeout: float | None) -> None:
        if number == 0:
            assert release.wait(60)
        if number == 1:
            raise DeadlineExceeded("too late")

    script.on = on
    with ThreadPoolExecutor(8) as threads:
        first = threads.submit(ask, client, 1)
        while not script.sent:
            time.sleep(0.001)
        others = [threads.submit(ask, client, number) for number in range(2, 6)]
        until_waiting(client, 4)
        release.set()
        assert first.result(30)
        assert all(other.result(30) for other in others)
    # The packed message that was late, and each of its calls on its own.
    assert len(script.sent) == 6


@pytest.mark.parametrize(
    ("error", "alone"),
    [
        (InvalidRequest("no"), True),
        (ServerError("no"), True),
        (RuntimeError("no"), True),
        (Overloaded("no", retry_after=7), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_said_of_a_message_is_not_said_of_its_calls(
    client: PoolClient, script: Script, patient: None, error: Exception, alone: bool
) -> None:
    release = threading.Event()

    def on(number: int, method: str, timeout: float | None) -> None:
        if number == 0:
            assert release.wait(60)
        if number == 1:
            raise error

    script.on = on
    with ThreadPoolExecutor(8) as threads:
        first = threads.submit(ask, client, 1)
        while not script.sent:
            time.sleep(0.001)
        others = [threads.submit(ask, client, number, None, 4 + number % 2) for number in range(2, 8)]
        until_waiting(client, 6)
        release.set()
        assert first.result(30)
        outcomes = [other.exception(30) for other in others]
    if alone:
        assert outcomes == [None] * 6
        assert len(script.sent) == 2 + 6
    else:
        assert all(isinstance(one, Overloaded) and one.retry_after == 7 for one in outcomes)
        assert len(set(map(id, outcomes))) == 6
        assert len(script.sent) == 2


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_leader_leaves_the_others_their_answers(
    client: PoolClient, script: Script, patient: None, interrupt: type[BaseException]
) -> None:
    release = threading.Event()

    def on(number: int, method: str, timeout: float | None) -> None:
        if number == 0:
            assert release.wait(60)
        if number in (0, 1):
            raise interrupt

    script.on = on
    outcomes: dict[int, object] = {}

    def one(number: int) -> None:
        try:
            outcomes[number] = ask(client, number)
        except BaseException as error:  # noqa: BLE001 - what a thread ends with is looked at below
            outcomes[number] = type(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(1, 9)]
    threads[0].start()
    while not script.sent:
        time.sleep(0.001)
    for thread in threads[1:]:
        thread.start()
    until_waiting(client, 7)
    release.set()
    for thread in threads:
        thread.join(30)
    assert sorted(outcomes) == list(range(1, 9))
    assert list(outcomes.values()).count(interrupt) == 2
    assert list(outcomes.values()).count(True) == 6
    # Who is left behind is sent in one message, by the next of them.
    assert len(script.sent) == 3


def test_nobody_waits_long_behind_a_slow_answer(client: PoolClient, script: Script) -> None:
    release = threading.Event()
    script.on = hold_the_first(release)
    with ThreadPoolExecutor(8) as threads:
        first = threads.submit(ask, client, 1)
        while not script.sent:
            time.sleep(0.001)
        others = [threads.submit(ask, client, number) for number in range(2, 8)]
        assert all(other.result(30) for other in others)
        assert not first.done()
        release.set()
        assert first.result(30)


def test_a_full_message_of_waiting_calls_goes_at_once(client: PoolClient, script: Script, patient: None) -> None:
    release = threading.Event()
    script.on = hold_the_first(release)
    with ThreadPoolExecutor(80) as threads:
        first = threads.submit(ask, client, 1)
        while not script.sent:
            time.sleep(0.001)
        others = [threads.submit(ask, client, number) for number in range(64)]
        assert all(other.result(30) for other in others)
        assert not first.done()
        release.set()
        assert first.result(30)
    assert len(script.sent) == 2


def test_closing_ends_those_that_wait(client: PoolClient, script: Script, patient: None) -> None:
    def on(number: int, method: str, timeout: float | None) -> None:
        assert script.closed.wait(60)
        raise PoolError("this client is closed")

    script.on = on
    with ThreadPoolExecutor(8) as threads:
        first = threads.submit(ask, client, 1)
        while not script.sent:
            time.sleep(0.001)
        others = [threads.submit(ask, client, number) for number in range(2, 8)]
        until_waiting(client, 6)
        client.close()
        for call in (first, *others):
            with pytest.raises(PoolError, match="closed"):
                call.result(30)


def _in_child(client: PoolClient, told: Any) -> None:
    told.put(ask(client, 5))


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_has_no_part_in_its_parents_line(client: PoolClient, script: Script, patient: None) -> None:
    release = threading.Event()
    script.on = hold_the_first(release)
    forking = multiprocessing.get_context("fork")
    told = forking.SimpleQueue()
    with ThreadPoolExecutor(8) as threads:
        first = threads.submit(ask, client, 1)
        while not script.sent:
            time.sleep(0.001)
        other = threads.submit(ask, client, 2)
        until_waiting(client, 1)
        child = forking.Process(target=_in_child, args=(client, told))
        child.start()
        child.join(30)
        assert child.exitcode == 0
        assert told.get()
        release.set()
        assert first.result(30)
        assert other.result(30)


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_lost_or_mixed_up_whatever_fails(client: PoolClient, script: Script, seed: int) -> None:
    chance = random.Random(seed)

    def on(number: int, method: str, timeout: float | None) -> None:
        what = chance.random()
        if what < 0.05:
            raise InvalidRequest("no")
        if what < 0.1:
            raise Overloaded("no")
        if what < 0.15:
            raise KeyboardInterrupt
        if what < 0.2:
            raise DeadlineExceeded("late")
        if what < 0.4:
            time.sleep(chance.random() * 2 * PATIENCE)

    script.on = on

    def one(number: int) -> str:
        try:
            timeout = 0.001 + PATIENCE * (number % 5) if number % 7 == 0 else None
            return "right" if ask(client, number, timeout, 3 + number % 3) else "wrong"
        except (PoolError, KeyboardInterrupt) as error:
            return type(error).__name__

    with ThreadPoolExecutor(32) as threads:
        ended = list(threads.map(one, range(1, 1500)))
    assert set(ended) <= {"right", "InvalidRequest", "Overloaded", "KeyboardInterrupt", "DeadlineExceeded"}
    assert ended.count("right") > 700
    assert len(script.sent) < 1400
    script.on = lambda number, method, timeout: None
    assert ask(client, 1)
