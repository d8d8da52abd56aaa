"""The send window of a map: it halves when the server refuses, grows with successes, and gives up after a time."""

import pytest

from poolservice_client import RetryPolicy
from poolservice_client._map import send_window
from poolservice_client._map.send_window import SendWindow


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(send_window, "time", clock)
    return clock


def test_a_refusal_halves_the_window_and_closes_it_for_a_time(clock: Clock) -> None:
    window = SendWindow(RetryPolicy(), timeout=30)
    window.start(16)
    assert window.refuse(2.0)
    window.finish(16)
    assert window.available == 0
    clock.now += 3.0
    assert window.available == 8


def test_the_window_grows_by_one_for_as_many_successes_as_it_holds(clock: Clock) -> None:
    window = SendWindow(RetryPolicy(), timeout=30)
    window.start(8)
    window.refuse(1.0)
    window.finish(8)
    clock.now += 2.0
    assert window.available == 4
    window.succeed(4)
    assert window.available == 5


def test_time_without_requests_is_no_time_of_refusals(clock: Clock) -> None:
    window = SendWindow(RetryPolicy(), timeout=30)
    window.start(1)
    window.succeed(1)
    window.finish(1)
    clock.now += 3600.0
    window.start(1)
    assert window.refuse(1.0)


def test_refusals_for_longer_than_the_timeout_fail(clock: Clock) -> None:
    window = SendWindow(RetryPolicy(), timeout=30)
    window.start(1)
    assert window.refuse(1.0)
    clock.now += 29.5
    assert not window.refuse(1.0)


def test_refused_requests_fail_without_a_retry_policy(clock: Clock) -> None:
    window = SendWindow(None, timeout=30)
    window.start(1)
    assert not window.refuse(1.0)
