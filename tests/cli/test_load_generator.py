"""The load generator of `poolservice bench`: the schedule of an open loop, and the knee of a load."""

import asyncio
import time

import pytest

from poolservice_client import Execution, Overloaded, Unavailable
from poolservice_client._cli.bench_knee import find_knee, sweep_rates
from poolservice_client._cli.bench_measurement import Arrivals, ClosedLoop, Measurement, OpenLoop
from poolservice_client._cli.load_generator import generate_load

EXECUTION = Execution("cpu", 1, 0, 0, 0, 0)


def _open_loop(rate: float, arrivals: Arrivals = "constant", max_outstanding: int = 1000) -> Measurement:
    return Measurement(OpenLoop(rate, arrivals, max_outstanding))


async def _immediate() -> Execution:
    return EXECUTION


async def test_constant_arrivals_are_at_equal_intervals() -> None:
    measurement = _open_loop(100)
    await generate_load(_immediate, measurement, seconds=0.105)
    assert (len(measurement.latencies), measurement.not_started) == (10, 0)
    assert measurement.seconds >= 0.105


async def test_poisson_arrivals_are_the_same_in_every_run() -> None:
    first, second = _open_loop(1000, "poisson"), _open_loop(1000, "poisson")
    for measurement in (first, second):
        await generate_load(_immediate, measurement, seconds=0.2)
    assert first.calls == second.calls
    # The standard deviation of the number of arrivals is 14.
    assert 130 < first.calls < 270


async def test_calls_start_although_none_has_returned() -> None:
    running = 0
    all_run = asyncio.Event()

    async def call() -> Execution:
        nonlocal running
        running += 1
        if running == 10:
            all_run.set()
        await all_run.wait()
        return EXECUTION

    measurement = _open_loop(100)
    await generate_load(call, measurement, seconds=0.105)
    assert len(measurement.latencies) == 10
    # The first call was due at 10 ms, and the last one, for which it waits, at 100 ms.
    assert max(measurement.latencies) >= 90


async def test_a_latency_counts_from_the_time_at_which_the_call_was_due() -> None:
    calls = 0

    async def call() -> Execution:
        nonlocal calls
        calls += 1
        if calls == 1:
            # The first call, due at 10 ms, keeps the client from starting the others in time.
            time.sleep(0.1)  # noqa: ASYNC251
        return EXECUTION

    measurement = _open_loop(100)
    await generate_load(call, measurement, seconds=0.105)
    # The second call was due at 20 ms and starts at 110 ms at the earliest.
    assert measurement.latencies[1] >= measurement.start_delays[1] >= 90


async def test_calls_above_the_limit_are_counted_and_not_started() -> None:
    release = asyncio.Event()
    started = 0

    async def call() -> Execution:
        nonlocal started
        started += 1
        await release.wait()
        return EXECUTION

    measurement = _open_loop(100, max_outstanding=2)
    load = asyncio.create_task(generate_load(call, measurement, seconds=0.105))
    while measurement.not_started < 8:  # noqa: ASYNC110 - nothing reports a call that does not start
        await asyncio.sleep(0.001)
    release.set()
    await load
    assert (started, len(measurement.latencies), measurement.not_started) == (2, 2, 8)


async def test_errors_are_counted_by_kind() -> None:
    errors = [Overloaded("full"), Unavailable("gone"), Overloaded("still full")]

    async def call() -> Execution:
        if errors:
            raise errors.pop(0)
        return EXECUTION

    measurement = _open_loop(100)
    await generate_load(call, measurement, seconds=0.105)
    assert (measurement.refused, measurement.failed, len(measurement.latencies)) == (2, 1, 7)
    assert measurement.first_errors == {"Overloaded": "full", "Unavailable": "gone"}


async def test_a_cancelled_open_loop_keeps_what_was_measured_and_ends_its_calls() -> None:
    enough, ended = asyncio.Event(), asyncio.Event()
    calls = 0

    async def call() -> Execution:
        nonlocal calls
        calls += 1
        if calls < 4:
            return EXECUTION
        try:
            enough.set()
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    measurement = _open_loop(100)
    load = asyncio.create_task(generate_load(call, measurement, seconds=60))
    await enough.wait()
    load.cancel()
    with pytest.raises(asyncio.CancelledError):
        await load
    assert ended.is_set()
    assert len(measurement.latencies) == 3
    assert measurement.seconds > 0


def _measured(rate: float, milliseconds: float, *, refused: int = 0, not_started: int = 0) -> Measurement:
    measurement = _open_loop(rate)
    measurement.seconds = 1.0
    for _ in range(100):
        measurement.record_success(milliseconds, EXECUTION)
    for _ in range(refused):
        measurement.record_error(Overloaded("full"))
    measurement.not_started = not_started
    return measurement


def test_the_knee_is_the_highest_rate_with_short_latencies() -> None:
    knee = find_knee([_measured(30, 25), _measured(10, 2), _measured(20, 19), _measured(40, 300)], None)
    assert knee is not None
    assert (knee.rate, knee.p99_limit) == (20, 20)
    assert "Knee: 20 calls/s" in str(knee)
    assert "10 times the p50 at the lowest rate" in str(knee)


def test_the_knee_respects_a_target() -> None:
    rows = [_measured(10, 2), _measured(20, 19), _measured(30, 25)]
    knee = find_knee(rows, 5.0)
    assert knee is not None
    assert (knee.rate, knee.p99_limit) == (10, 5)
    below = find_knee(rows, 1.0)
    assert below is not None
    assert below.rate is None
    assert str(below).startswith("Knee: below the lowest rate. No rate met the limits")


def test_the_knee_is_below_the_first_rate_that_misses_though_a_higher_one_meets_the_limit() -> None:
    knee = find_knee([_measured(10, 2), _measured(20, 2), _measured(30, 50), _measured(40, 3)], None)
    assert knee is not None
    assert (knee.rate, knee.later) == (20, 40)
    assert "40 calls/s met them although a lower rate did not: the measurements vary, so measure longer" in str(knee)


def test_there_is_no_knee_if_the_lowest_rate_misses_though_a_higher_one_meets_the_limit() -> None:
    knee = find_knee([_measured(10, 50), _measured(20, 2)], 5.0)
    assert knee is not None
    assert (knee.rate, knee.later) == (None, 20)
    assert "below the lowest rate, which missed the limits" in str(knee)
    assert "measurements vary" in str(knee)


def test_a_rate_that_was_measured_twice_misses_if_one_measurement_does() -> None:
    knee = find_knee([_measured(10, 2), _measured(20, 2), _measured(20, 50)], None)
    assert knee is not None
    assert (knee.rate, knee.later) == (10, None)


def test_the_knee_is_at_or_above_the_highest_rate_if_none_misses() -> None:
    knee = find_knee([_measured(10, 2), _measured(20, 2)], None)
    assert knee is not None
    assert (knee.rate, knee.is_bounded) == (20, False)
    assert str(knee).startswith("Knee: at or above 20 calls/s. Every measured rate met the limits")


@pytest.mark.parametrize("lost", [{"refused": 2}, {"not_started": 2}])
def test_a_rate_that_loses_calls_is_above_the_knee(lost: dict[str, int]) -> None:
    knee = find_knee([_measured(10, 2), _measured(20, 2, **lost)], None)
    assert knee is not None
    assert knee.rate == 10


def test_a_knee_needs_two_rates() -> None:
    closed = Measurement(ClosedLoop(4))
    assert find_knee([_measured(10, 2), closed], None) is None
    # Nothing succeeded at the lowest rate, so there is no median to compare with.
    assert find_knee([_open_loop(5), _measured(10, 2)], None) is None


def test_the_rates_of_a_sweep_rise_to_above_the_capacity() -> None:
    assert sweep_rates(1234.5) == [120, 310, 620, 860, 990, 1100, 1200, 1500]
