"""Coalesced calls of threads: each ends at its own deadline."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from poolservice_client import DeadlineExceeded

if TYPE_CHECKING:
    from tests.client.coalescing.blocking.conftest import ScriptedTransport

Call = Callable[..., bool]
UntilWaiting = Callable[[int], None]

pytestmark = pytest.mark.usefixtures("long_max_wait")


def test_a_waiting_call_ends_at_its_own_deadline(
    call: Call, transport: "ScriptedTransport", threads: ThreadPoolExecutor, until_waiting: UntilWaiting
) -> None:
    release = transport.hold(0)
    first = threads.submit(call, 1)
    transport.wait_until_sent(1)
    others = [threads.submit(call, number) for number in (2, 3)]
    until_waiting(2)
    with pytest.raises(DeadlineExceeded, match=r"there:1 gave no response within the timeout of 0\.05 s"):
        call(4, timeout=0.05)
    release.set()
    assert first.result(30)
    assert all(other.result(30) for other in others)
    assert len(transport.methods) == 2


def test_a_sent_call_ends_at_its_own_deadline(
    call: Call, transport: "ScriptedTransport", threads: ThreadPoolExecutor, until_waiting: UntilWaiting
) -> None:
    release, release_second = transport.hold(0), transport.hold(1)
    first = threads.submit(call, 1)
    transport.wait_until_sent(1)
    leader = threads.submit(call, 2)
    until_waiting(1)
    short = threads.submit(call, 3, 1.5)
    other = threads.submit(call, 4)
    until_waiting(3)
    release.set()
    assert first.result(30)
    with pytest.raises(DeadlineExceeded, match=r"within the timeout of 1\.5 s"):
        short.result(30)
    release_second.set()
    assert leader.result(30)
    assert other.result(30)
    assert len(transport.methods) == 2
    assert transport.timeouts[1] is not None
    assert transport.timeouts[1] > 20


def test_the_deadline_of_the_leader_is_not_that_of_its_followers(
    call: Call, transport: "ScriptedTransport", threads: ThreadPoolExecutor, until_waiting: UntilWaiting
) -> None:
    def on_message(number: int) -> None:
        if number == 1:
            raise DeadlineExceeded("timeout")

    transport.on_message = on_message
    release = transport.hold(0)
    first = threads.submit(call, 1)
    transport.wait_until_sent(1)
    others = [threads.submit(call, number) for number in range(2, 6)]
    until_waiting(4)
    release.set()
    assert first.result(30)
    assert all(other.result(30) for other in others)
    # The first call, the coalesced message that timed out, and each of its four calls uncoalesced.
    assert len(transport.methods) == 6
