"""Which calls of many threads travel together, and which do not wait."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.client.coalescing.blocking.conftest import Script

Ask = Callable[..., bool]


def test_a_call_that_has_no_company_goes_at_once(ask: Ask, script: "Script") -> None:
    assert all(ask(number) for number in range(20))
    assert len(script.sent) == 20


def test_nobody_waits_long_behind_a_slow_answer(ask: Ask, script: "Script", threads: ThreadPoolExecutor) -> None:
    release = script.hold(0)
    first = threads.submit(ask, 1)
    script.until_sent(1)
    others = [threads.submit(ask, number) for number in range(2, 8)]
    assert all(other.result(30) for other in others)
    assert not first.done()
    release.set()
    assert first.result(30)


def test_a_full_message_of_waiting_calls_goes_at_once(
    ask: Ask, script: "Script", threads: ThreadPoolExecutor, patient: None
) -> None:
    release = script.hold(0)
    first = threads.submit(ask, 1)
    script.until_sent(1)
    others = [threads.submit(ask, number) for number in range(64)]
    assert all(other.result(30) for other in others)
    assert not first.done()
    release.set()
    assert first.result(30)
    assert len(script.sent) == 2


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_has_no_part_in_its_parents_line(
    ask: Ask, script: "Script", threads: ThreadPoolExecutor, until_waiting: Callable[[int], None], patient: None
) -> None:
    release = script.hold(0)
    forking = multiprocessing.get_context("fork")
    told = forking.SimpleQueue()
    first = threads.submit(ask, 1)
    script.until_sent(1)
    other = threads.submit(ask, 2)
    until_waiting(1)
    child = forking.Process(target=lambda: told.put(ask(5)))
    child.start()
    child.join(30)
    assert child.exitcode == 0
    assert told.get()
    release.set()
    assert first.result(30)
    assert other.result(30)
