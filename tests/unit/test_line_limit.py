"""The limit of log lines: how many pass at once and per second, of all callers and of one."""

from poolservice_server.call_log.line_limit import LineLimit


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def taken(limit: LineLimit, caller: str, lines: int) -> int:
    return sum(limit.take(caller, "INVALID_ARGUMENT") for _ in range(lines))


def test_one_caller_gets_half_of_the_lines() -> None:
    limit = LineLimit(20, 2.0, Clock())
    assert taken(limit, "first", 1000) == 10
    assert taken(limit, "second", 1000) == 10
    assert taken(limit, "third", 1000) == 0


def test_lines_come_back_with_time() -> None:
    clock = Clock()
    limit = LineLimit(20, 2.0, clock)
    taken(limit, "caller", 1000)
    clock.now = 3.0
    assert taken(limit, "caller", 1000) == 3
    clock.now = 1e6
    assert taken(limit, "caller", 1000) == 10


def test_a_caller_with_many_names_is_limited() -> None:
    limit = LineLimit(20, 2.0, Clock())
    assert sum(limit.take(f"ipv4:192.0.2.1:{port}", "CANCELLED") for port in range(60_000)) == 20


def test_the_lines_that_are_left_out_are_counted_by_code() -> None:
    limit = LineLimit(2, 1.0, Clock())
    for code in ("CANCELLED", "INVALID_ARGUMENT", "INVALID_ARGUMENT", "CANCELLED"):
        limit.take("caller", code)
    assert limit.take_left_out() == {"INVALID_ARGUMENT": 2, "CANCELLED": 1}
    assert limit.take_left_out() == {}
