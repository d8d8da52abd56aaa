"""Threads whose calls travel together: errors, interrupts and closing are each one's own."""

import random
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from poolservice_client import DeadlineExceeded, InvalidRequest, Overloaded, PoolClient, PoolError, ServerError
from poolservice_client._coalescing import limits

if TYPE_CHECKING:
    from tests.client.coalescing.blocking.conftest import Script

Ask = Callable[..., bool]
UntilWaiting = Callable[[int], None]

PATIENCE = limits.MAX_WAIT_SECONDS


@pytest.fixture
def six_behind_one(
    ask: Ask, script: "Script", threads: ThreadPoolExecutor, until_waiting: UntilWaiting, patient: None
) -> Callable[[BaseException], list["Future[bool]"]]:
    """Makes a call, and six behind it of two kinds, of which the one message ends with an error; gives the six."""

    def make(error: BaseException) -> list["Future[bool]"]:
        def on(number: int) -> None:
            if number == 1:
                raise error

        script.on = on
        release = script.hold(0)
        first = threads.submit(ask, 1)
        script.until_sent(1)
        others = [threads.submit(ask, number, None, 4 + number % 2) for number in range(2, 8)]
        until_waiting(6)
        release.set()
        assert first.result(30)
        return others

    return make


@pytest.mark.parametrize(
    "error", [InvalidRequest("no"), ServerError("no"), RuntimeError("no")], ids=lambda error: type(error).__name__
)
def test_what_is_said_of_a_message_is_not_said_of_its_calls(
    six_behind_one: Callable[[Exception], list["Future[bool]"]], script: "Script", error: Exception
) -> None:
    assert all(call.result(30) for call in six_behind_one(error))
    assert len(script.sent) == 2 + 6


def test_what_is_said_of_the_server_is_said_to_all(
    six_behind_one: Callable[[Exception], list["Future[bool]"]], script: "Script"
) -> None:
    outcomes = [call.exception(30) for call in six_behind_one(Overloaded("no", retry_after=7))]
    assert all(isinstance(one, Overloaded) and one.retry_after == 7 for one in outcomes)
    assert len(set(map(id, outcomes))) == 6
    assert len(script.sent) == 2


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_leader_leaves_the_others_their_answers(
    ask: Ask,
    script: "Script",
    threads: ThreadPoolExecutor,
    until_waiting: UntilWaiting,
    patient: None,
    interrupt: type[BaseException],
) -> None:
    def on(number: int) -> None:
        if number in (0, 1):
            raise interrupt

    script.on = on
    release = script.hold(0)
    first = threads.submit(ask, 1)
    script.until_sent(1)
    others = [threads.submit(ask, number) for number in range(2, 9)]
    until_waiting(7)
    release.set()
    assert isinstance(first.exception(30), interrupt)
    errors = [other.exception(30) for other in others]
    assert [type(error) for error in errors if error is not None] == [interrupt]
    assert all(other.result() for other in others if other.exception() is None)
    # Who is left behind is sent in one message, by the next of them.
    assert len(script.sent) == 3


def test_closing_ends_those_that_wait(
    client: PoolClient,
    ask: Ask,
    script: "Script",
    threads: ThreadPoolExecutor,
    until_waiting: UntilWaiting,
    patient: None,
) -> None:
    def on(number: int) -> None:
        assert script.closed.wait(60)
        raise PoolError("this client is closed")

    script.on = on
    first = threads.submit(ask, 1)
    script.until_sent(1)
    others = [threads.submit(ask, number) for number in range(2, 8)]
    until_waiting(6)
    client.close()
    for call in (first, *others):
        with pytest.raises(PoolError, match="closed"):
            call.result(30)


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_lost_or_mixed_up_whatever_fails(ask: Ask, script: "Script", seed: int) -> None:
    chance = random.Random(seed)

    def on(number: int) -> None:
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
            time.sleep(chance.random() * 2 * PATIENCE)  # a slow server

    script.on = on

    def one(number: int) -> str:
        try:
            timeout = 0.001 + PATIENCE * (number % 5) if number % 7 == 0 else None
            return "right" if ask(number, timeout, 3 + number % 3) else "wrong"
        except (PoolError, KeyboardInterrupt) as error:
            return type(error).__name__

    with ThreadPoolExecutor(32) as threads:
        ended = list(threads.map(one, range(1, 1500)))
    assert set(ended) <= {"right", "InvalidRequest", "Overloaded", "KeyboardInterrupt", "DeadlineExceeded"}
    assert ended.count("right") > 700
    assert len(script.sent) < 1400
    script.on = lambda number: None
    assert ask(1)
