"""Forming batches: which requests run together, and in what order."""

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from poolservice_server.batcher import Batcher, Request

if TYPE_CHECKING:
    from tests.unit.batcher.conftest import MakeRequest, Runner


async def test_requests_of_one_loop_iteration_run_together(runner: "Runner", small: "MakeRequest") -> None:
    batcher = Batcher(runner)
    outcomes = await asyncio.gather(*(batcher.submit(small(number)) for number in range(5)))
    assert runner.batches == [[0, 1, 2, 3, 4]]
    assert [one.result for one in outcomes] == [0, 1, 2, 3, 4]
    assert {(one.device, one.batch_size) for one in outcomes} == {("test", 5)}
    snapshot = batcher.snapshot()
    assert (snapshot.batches, snapshot.batched_requests) == (1, 5)
    await batcher.drain()


async def test_requests_that_arrive_while_a_batch_runs_form_the_next(runner: "Runner", blocked: "MakeRequest") -> None:
    batcher = Batcher(runner, threads=1)
    first = batcher.submit(blocked("first"))
    await runner.wait_for_start()
    others = [batcher.submit(blocked(number)) for number in range(3)]
    runner.release.set()
    assert (await first).result == "first"
    assert [(await other).batch_size for other in others] == [3, 3, 3]
    assert runner.batches == [["first"], [0, 1, 2]]
    await batcher.drain()


async def test_a_small_request_does_not_overtake_one_that_waits_for_a_slot(
    runner: "Runner", blocked: "MakeRequest", small: "MakeRequest"
) -> None:
    batcher = Batcher(runner, threads=1, inline_bytes=100)
    futures = [batcher.submit(blocked("running"))]
    await runner.wait_for_start()
    futures += [batcher.submit(Request("large", "waiting", 100_000)), batcher.submit(small("small"))]
    runner.release.set()
    await asyncio.gather(*futures)
    assert runner.batches == [["running"], ["waiting"], ["small"]]
    await batcher.drain()


async def test_batches_are_limited_by_requests_and_by_bytes(runner: "Runner") -> None:
    batcher = Batcher(runner, max_batch_size=3, max_batch_bytes=250)
    await asyncio.gather(*(batcher.submit(Request("small", number, 10)) for number in range(4)))
    await asyncio.gather(*(batcher.submit(Request("large", number, 100)) for number in range(3)))
    await batcher.submit(Request("large", "more than a batch", 1000))
    assert runner.batches == [[0, 1, 2], [3], [0, 1], [2], ["more than a batch"]]
    await batcher.drain()


async def test_the_key_of_the_oldest_request_runs_next(runner: "Runner", small: "MakeRequest") -> None:
    batcher = Batcher(runner, max_batch_size=2)
    keys = "aabacb"
    await asyncio.gather(*(batcher.submit(small(f"{key}{n}", key=key)) for n, key in enumerate(keys)))
    assert runner.batches == [["a0", "a1"], ["b2", "b5"], ["a3"], ["c4"]]
    await batcher.drain()


async def test_a_request_waits_for_others_no_longer_than_the_batch_delay(
    runner: "Runner", small: "MakeRequest", monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    now = loop.time()
    monkeypatch.setattr(loop, "time", lambda: now)
    batcher = Batcher(runner, inline_bytes=100, max_batch_delay=2.0, clock=lambda: now)
    future = batcher.submit(small("single"))
    now += 1.9
    for _ in range(5):
        await asyncio.sleep(0)
    assert not future.done()
    now += 0.2
    assert (await future).queue_seconds == pytest.approx(2.1)
    await batcher.drain()


async def test_with_a_batch_delay_every_request_waits_for_others(runner: "Runner") -> None:
    batcher = Batcher(runner, inline_bytes=100, unbatched_bytes=50, max_batch_size=2, max_batch_delay=60)
    futures = [batcher.submit(Request("a", number, 50)) for number in range(2)]
    assert [(await future).batch_size for future in futures] == [2, 2]
    await batcher.drain()


async def test_a_full_batch_does_not_wait_for_the_batch_delay(runner: "Runner", small: "MakeRequest") -> None:
    batcher = Batcher(runner, max_batch_delay=1000, max_batch_size=2)
    single = batcher.submit(small("single", key="other"))
    await asyncio.gather(batcher.submit(small(0)), batcher.submit(small(1)))
    assert runner.batches == [[0, 1]]
    await batcher.drain()
    assert (await single).result == "single"


def test_a_batcher_can_be_created_before_its_loop_runs(runner: "Runner", small: "MakeRequest") -> None:
    batcher = Batcher(runner)

    async def submit_and_drain() -> Any:
        result = (await batcher.submit(small("x"))).result
        await batcher.drain()
        return result

    assert asyncio.run(submit_and_drain()) == "x"
