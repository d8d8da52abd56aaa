"""Coalesced calls of threads: errors, interrupts and closing affect the right calls only."""

import random
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from poolservice_client import DeadlineExceeded, InvalidRequest, Overloaded, PoolClient, PoolError, ServerError
from poolservice_client._coalescing import limits

if TYPE_CHECKING:
    from tests.client.coalescing.blocking.conftest import ScriptedTransport

Call = Callable[..., bool]
UntilWaiting = Callable[[int], None]

MAX_WAIT = limits.MAX_WAIT_SECONDS


@pytest.fixture
def six_coalesced(
    call: Call,
    transport: "ScriptedTransport",
    threads: ThreadPoolExecutor,
    until_waiting: UntilWaiting,
    long_max_wait: None,
) -> Callable[[BaseException], list["Future[bool]"]]:
    """Coalesces six calls of two shapes in one message, which fails with an error. Returns the six."""

    def make(error: BaseException) -> list["Future[bool]"]:
        def on_message(number: int) -> None:
            if number == 1:
                raise error

        transport.on_message = on_message
        release = transport.hold(0)
        first = threads.submit(call, 1)
        transport.wait_until_sent(1)
        others = [threads.submit(call, number, None, 4 + number % 2) for number in range(2, 8)]
        until_waiting(6)
        release.set()
        assert first.result(30)
        return others

    return make


@pytest.mark.parametrize(
    "error", [InvalidRequest("no"), ServerError("no"), RuntimeError("no")], ids=lambda error: type(error).__name__
)
def test_an_error_of_the_message_is_not_an_error_of_its_calls(
    six_coalesced: Callable[[Exception], list["Future[bool]"]], transport: "ScriptedTransport", error: Exception
) -> None:
    assert all(future.result(30) for future in six_coalesced(error))
    assert len(transport.methods) == 2 + 6


def test_an_error_of_the_server_is_an_error_of_all_calls(
    six_coalesced: Callable[[Exception], list["Future[bool]"]], transport: "ScriptedTransport"
) -> None:
    outcomes = [future.exception(30) for future in six_coalesced(Overloaded("no", retry_after=7))]
    assert all(isinstance(one, Overloaded) and one.retry_after == 7 for one in outcomes)
    assert len(set(map(id, outcomes))) == 6
    assert len(transport.methods) == 2


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_interrupting_the_leader_loses_no_other_call(
    call: Call,
    transport: "ScriptedTransport",
    threads: ThreadPoolExecutor,
    until_waiting: UntilWaiting,
    long_max_wait: None,
    interrupt: type[BaseException],
) -> None:
    def on_message(number: int) -> None:
        if number in (0, 1):
            raise interrupt

    transport.on_message = on_message
    release = transport.hold(0)
    first = threads.submit(call, 1)
    transport.wait_until_sent(1)
    others = [threads.submit(call, number) for number in range(2, 9)]
    until_waiting(7)
    release.set()
    assert isinstance(first.exception(30), interrupt)
    errors = [other.exception(30) for other in others]
    assert [type(error) for error in errors if error is not None] == [interrupt]
    assert all(other.result() for other in others if other.exception() is None)
    # The remaining calls are sent in one message, by the next leader.
    assert len(transport.methods) == 3


def test_closing_ends_waiting_calls(
    client: PoolClient,
    call: Call,
    transport: "ScriptedTransport",
    threads: ThreadPoolExecutor,
    until_waiting: UntilWaiting,
    long_max_wait: None,
) -> None:
    def on_message(number: int) -> None:
        assert transport.closed.wait(60)
        raise PoolError("this client is closed")

    transport.on_message = on_message
    first = threads.submit(call, 1)
    transport.wait_until_sent(1)
    others = [threads.submit(call, number) for number in range(2, 8)]
    until_waiting(6)
    client.close()
    for future in (first, *others):
        with pytest.raises(PoolError, match="closed"):
            future.result(30)


@pytest.mark.parametrize("seed", range(4))
def test_no_call_is_lost_or_mixed_up_under_random_failures(
    call: Call, transport: "ScriptedTransport", seed: int
) -> None:
    chance = random.Random(seed)

    def on_message(number: int) -> None:
        draw = chance.random()
        if draw < 0.05:
            raise InvalidRequest("no")
        if draw < 0.1:
            raise Overloaded("no")
        if draw < 0.15:
            raise KeyboardInterrupt
        if draw < 0.2:
            raise DeadlineExceeded("timeout")
        if draw < 0.4:
            time.sleep(chance.random() * 2 * MAX_WAIT)  # a slow server

    transport.on_message = on_message

    def one(number: int) -> str:
        try:
            timeout = 0.001 + MAX_WAIT * (number % 5) if number % 7 == 0 else None
            return "right" if call(number, timeout, 3 + number % 3) else "wrong"
        except (PoolError, KeyboardInterrupt) as error:
            return type(error).__name__

    with ThreadPoolExecutor(32) as threads:
        ended = list(threads.map(one, range(1, 1500)))
    assert set(ended) <= {"right", "InvalidRequest", "Overloaded", "KeyboardInterrupt", "DeadlineExceeded"}
    assert ended.count("right") > 700
    assert len(transport.methods) < 1400
    transport.on_message = lambda number: None
    assert call(1)
