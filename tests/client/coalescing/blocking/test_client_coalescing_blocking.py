"""Which calls of many threads are coalesced, and which do not wait."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.client.coalescing.blocking.conftest import ScriptedTransport

Call = Callable[..., bool]


def test_a_single_call_is_sent_immediately(call: Call, transport: "ScriptedTransport") -> None:
    assert all(call(number) for number in range(20))
    assert len(transport.methods) == 20


def test_no_call_waits_long_for_a_slow_response(
    call: Call, transport: "ScriptedTransport", threads: ThreadPoolExecutor
) -> None:
    release = transport.hold(0)
    first = threads.submit(call, 1)
    transport.wait_until_sent(1)
    others = [threads.submit(call, number) for number in range(2, 8)]
    assert all(other.result(30) for other in others)
    assert not first.done()
    release.set()
    assert first.result(30)


def test_a_full_message_is_sent_immediately(
    call: Call, transport: "ScriptedTransport", threads: ThreadPoolExecutor, long_max_wait: None
) -> None:
    release = transport.hold(0)
    first = threads.submit(call, 1)
    transport.wait_until_sent(1)
    others = [threads.submit(call, number) for number in range(64)]
    assert all(other.result(30) for other in others)
    assert not first.done()
    release.set()
    assert first.result(30)
    assert len(transport.methods) == 2


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_does_not_inherit_waiting_calls(
    call: Call,
    transport: "ScriptedTransport",
    threads: ThreadPoolExecutor,
    until_waiting: Callable[[int], None],
    long_max_wait: None,
) -> None:
    release = transport.hold(0)
    forking = multiprocessing.get_context("fork")
    results = forking.SimpleQueue()
    first = threads.submit(call, 1)
    transport.wait_until_sent(1)
    other = threads.submit(call, 2)
    until_waiting(1)
    child = forking.Process(target=lambda: results.put(call(5)))
    child.start()
    child.join(30)
    assert child.exitcode == 0
    assert results.get()
    release.set()
    assert first.result(30)
    assert other.result(30)
