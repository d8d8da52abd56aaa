"""Threads whose calls travel together: each waits until its own deadline."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from poolservice_client import DeadlineExceeded

if TYPE_CHECKING:
    from tests.client.coalescing.blocking.conftest import Script

Ask = Callable[..., bool]
UntilWaiting = Callable[[int], None]

pytestmark = pytest.mark.usefixtures("patient")


def test_who_waits_ends_with_its_own_deadline(
    ask: Ask, script: "Script", threads: ThreadPoolExecutor, until_waiting: UntilWaiting
) -> None:
    release = script.hold(0)
    first = threads.submit(ask, 1)
    script.until_sent(1)
    others = [threads.submit(ask, number) for number in (2, 3)]
    until_waiting(2)
    with pytest.raises(DeadlineExceeded, match=r"there:1 gave no response within the timeout of 0\.05 s"):
        ask(4, timeout=0.05)
    release.set()
    assert first.result(30)
    assert all(other.result(30) for other in others)
    assert len(script.sent) == 2


def test_who_was_sent_ends_with_its_own_deadline(
    ask: Ask, script: "Script", threads: ThreadPoolExecutor, until_waiting: UntilWaiting
) -> None:
    release, release_second = script.hold(0), script.hold(1)
    first = threads.submit(ask, 1)
    script.until_sent(1)
    leader = threads.submit(ask, 2)
    until_waiting(1)
    hasty = threads.submit(ask, 3, 1.5)
    other = threads.submit(ask, 4)
    until_waiting(3)
    release.set()
    assert first.result(30)
    with pytest.raises(DeadlineExceeded, match=r"within the timeout of 1\.5 s"):
        hasty.result(30)
    release_second.set()
    assert leader.result(30)
    assert other.result(30)
    assert len(script.sent) == 2
    assert script.timeouts[1] is not None
    assert script.timeouts[1] > 20


def test_a_leaders_deadline_is_not_that_of_those_it_carries(
    ask: Ask, script: "Script", threads: ThreadPoolExecutor, until_waiting: UntilWaiting
) -> None:
    def on(number: int) -> None:
        if number == 1:
            raise DeadlineExceeded("too late")

    script.on = on
    release = script.hold(0)
    first = threads.submit(ask, 1)
    script.until_sent(1)
    others = [threads.submit(ask, number) for number in range(2, 6)]
    until_waiting(4)
    release.set()
    assert first.result(30)
    assert all(other.result(30) for other in others)
    # The packed message that was late, and each of its calls on its own.
    assert len(script.sent) == 6
