"""Validation in turns: new heads never stop the event loop, and callers take turns."""

import asyncio
import gc
import time
import weakref
from collections import Counter
from functools import partial

import pytest

from poolservice.errors import InvalidRequest
from poolservice_server.batcher import QueueFull
from poolservice_server.core.validation_turns import ValidationTurns

# Longer than all validations of one loop iteration may take together, so that each iteration has one of these.
_SECONDS = 0.003

_MAX_BYTES = 2**20


def busy() -> None:
    until = time.perf_counter() + _SECONDS
    while time.perf_counter() < until:
        pass


class Iterations:
    """Counts the iterations of the event loop."""

    def __init__(self) -> None:
        self.count = 0
        self._task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        while True:
            self.count += 1
            await asyncio.sleep(0)

    def stop(self) -> None:
        self._task.cancel()


async def test_the_loop_runs_between_two_long_validations() -> None:
    turns = ValidationTurns(_MAX_BYTES, Counter())
    iterations = Iterations()
    seen: list[int] = []

    def validate() -> None:
        seen.append(iterations.count)
        busy()

    await asyncio.gather(*(turns.run("one", validate, 100) for _ in range(20)))
    iterations.stop()
    assert len(set(seen)) == 20


async def test_callers_take_turns() -> None:
    turns = ValidationTurns(_MAX_BYTES, Counter())
    order: list[str] = []

    def validate(name: str) -> None:
        order.append(name)
        busy()

    many = [turns.run("many", partial(validate, f"many {number}"), 100) for number in range(20)]
    await asyncio.gather(*many, turns.run("one", partial(validate, "one"), 100))
    assert order.index("one") <= 2
    assert [name for name in order if name != "one"] == [f"many {number}" for number in range(20)]


async def test_each_validation_has_its_own_outcome() -> None:
    turns = ValidationTurns(_MAX_BYTES, Counter())

    def fail() -> None:
        busy()
        raise InvalidRequest("is wrong")

    validations = [turns.run("one", fail if number % 2 else busy, 100) for number in range(6)]
    outcomes = await asyncio.gather(*validations, return_exceptions=True)
    assert [isinstance(outcome, InvalidRequest) for outcome in outcomes] == [False, True] * 3
    with pytest.raises(InvalidRequest, match="is wrong"):
        await turns.run("one", fail, 100)


async def test_a_caller_that_leaves_costs_no_validation_and_keeps_no_memory() -> None:
    turns = ValidationTurns(_MAX_BYTES, Counter())
    ran: list[str] = []

    def validate(name: str) -> None:
        ran.append(name)
        busy()

    tasks = [
        asyncio.ensure_future(turns.run("one", partial(validate, name), 100)) for name in ("first", "left", "stays")
    ]
    await asyncio.sleep(0)
    left = weakref.ref(tasks[1])
    tasks.pop(1).cancel()
    await asyncio.gather(*tasks)
    assert ran == ["first", "stays"]
    gc.collect()
    assert left() is None


async def test_a_caller_whose_waiting_requests_take_too_much_memory_is_refused() -> None:
    refusals: Counter[str] = Counter()
    turns = ValidationTurns(_MAX_BYTES, refusals)
    first, waits = (asyncio.ensure_future(turns.run("many", busy, 100)) for _ in range(2))
    large = asyncio.ensure_future(turns.run("many", busy, _MAX_BYTES))
    other = asyncio.ensure_future(turns.run("one", busy, _MAX_BYTES))
    await asyncio.gather(first, waits, other)
    with pytest.raises(QueueFull, match="retry in"):
        await large
    assert refusals == {"validation_bytes": 1}
    # What has been validated takes no memory any more.
    await asyncio.gather(*(turns.run("many", busy, _MAX_BYTES // 2) for _ in range(2)))


async def test_a_caller_that_fills_the_memory_leaves_their_share_to_others() -> None:
    turns = ValidationTurns(_MAX_BYTES, Counter())
    size = _MAX_BYTES // 8
    many = [asyncio.ensure_future(turns.run("many", busy, size)) for _ in range(10)]
    one = [asyncio.ensure_future(turns.run("one", busy, size)) for _ in range(3)]
    outcomes = await asyncio.gather(*many, return_exceptions=True)
    assert [isinstance(outcome, QueueFull) for outcome in outcomes] == [False] * 8 + [True] * 2
    await asyncio.gather(*one)
