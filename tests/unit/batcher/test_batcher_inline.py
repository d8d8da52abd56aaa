"""Which batches run inline, on the event loop, and which on threads."""

import asyncio
import itertools
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from poolservice_server.batcher import Batcher, Completed, Request, execution
from poolservice_server.stop import Stop

if TYPE_CHECKING:
    from tests.unit.batcher.conftest import MakeRequest, Runner


async def test_a_new_key_runs_inline_if_its_batch_is_small_and_on_a_thread_otherwise(runner: "Runner") -> None:
    batcher = Batcher(runner, inline_bytes=100)
    await batcher.submit(Request("a", None, 100))
    await batcher.submit(Request("b", None, 101))
    assert runner.ran_inline() == [True, False]
    await batcher.drain()


async def test_a_new_key_runs_inline_only_if_its_estimated_work_is_short(runner: "Runner") -> None:
    batcher = Batcher(runner, inline_bytes=100, inline_seconds=0.001)
    await batcher.submit(Request("short", None, 10, seconds=0.0001))
    # The first batch of a key takes longer than its estimate.
    await batcher.submit(Request("long", None, 10, seconds=0.0002))
    assert runner.ran_inline() == [True, False]
    await batcher.drain()


async def test_a_batch_of_a_new_key_that_runs_inline_counts_the_work_of_all_its_requests(runner: "Runner") -> None:
    batcher = Batcher(runner, inline_bytes=1000, inline_seconds=0.001, max_batch_seconds=0.02)
    await asyncio.gather(*(batcher.submit(Request("a", number, 10, seconds=0.0001)) for number in range(15)))
    assert runner.batches[0] == list(range(10))
    await batcher.drain()


async def test_large_batches_run_inline_once_their_key_has_been_fast(runner: "Runner") -> None:
    batcher = Batcher(runner, inline_bytes=100, inline_seconds=60)
    await batcher.submit(Request("fast", None, 100_000))
    await batcher.submit(Request("fast", None, 100_000))
    assert runner.ran_inline() == [False, True]
    await batcher.drain()


async def test_small_batches_run_on_a_thread_once_their_key_has_been_slow(
    slow_runner: Callable[[float], "Runner"], small: "MakeRequest"
) -> None:
    runner = slow_runner(0.005)
    batcher = Batcher(runner, inline_bytes=100)
    await batcher.submit(small(1))
    await batcher.submit(small(2))
    assert runner.ran_inline() == [True, False]
    await batcher.drain()


async def test_batches_of_a_slow_key_are_limited_by_the_time_that_they_take(
    small: "MakeRequest", monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    batches: list[list[int]] = []

    def run(_: str, payloads: list[int], _stop: Stop) -> list[Completed]:
        nonlocal now
        now += 0.005 * len(payloads)
        batches.append(list(payloads))
        return [Completed(payload, "test", 1, 0, 0) for payload in payloads]

    monkeypatch.setattr(execution, "time", SimpleNamespace(perf_counter=lambda: now))
    batcher = Batcher(run, max_batch_seconds=0.0201)
    for _ in range(2):
        await asyncio.gather(*(batcher.submit(small(number)) for number in range(10)))
    assert batches == [[*range(10)], [0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    await batcher.drain()


async def test_a_request_that_gains_nothing_from_batching_runs_immediately(runner: "Runner") -> None:
    # A minute is allowed inline, because other programs may delay the first batch.
    batcher = Batcher(runner, inline_bytes=100, inline_seconds=60, unbatched_bytes=50)
    assert batcher.submit(Request("a", 1, 50)).done()
    gains = batcher.submit(Request("a", 2, 49))
    behind = batcher.submit(Request("a", 3, 50))
    assert not gains.done()
    assert not behind.done()
    assert (await behind).batch_size == 2
    assert gains.done()
    assert runner.batches == [[1], [2, 3]]
    assert runner.ran_inline() == [True, True]
    await batcher.drain()


async def test_a_single_request_does_not_wait_for_others_if_the_one_before_was_single(
    runner: "Runner", small: "MakeRequest"
) -> None:
    batcher = Batcher(runner, inline_bytes=100, inline_seconds=60)
    first = batcher.submit(small(1))
    assert not first.done()
    await first
    assert batcher.submit(small(2)).done()
    # Two arrive in one loop iteration, so that the next iteration may bring several again.
    assert (await batcher.submit(small(3))).batch_size == 1
    fourth, fifth = batcher.submit(small(4)), batcher.submit(small(5))
    assert not fourth.done()
    assert (await fifth).batch_size == 2
    assert runner.batches == [[1], [2], [3], [4, 5]]
    await batcher.drain()


async def test_many_requests_at_once_do_not_block_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def run(_: str, payloads: list[int], _stop: Stop) -> list[Completed]:
        nonlocal now
        now += 0.001 * len(payloads)
        return [Completed(payload, "test", len(payloads), 0, 0) for payload in payloads]

    iterations: list[float] = []
    running = True

    async def record_iterations() -> None:
        while running:
            iterations.append(now)
            await asyncio.sleep(0)

    monkeypatch.setattr(execution, "time", SimpleNamespace(perf_counter=lambda: now))
    batcher = Batcher(run, inline_bytes=100, inline_seconds=0.0051, unbatched_bytes=50)
    await batcher.submit(Request("a", 0, 50))
    await asyncio.sleep(0)
    recording = asyncio.create_task(record_iterations())
    start = now
    futures = [batcher.submit(Request("a", number, 50)) for number in range(80)]
    # Requests run immediately until they have taken more than four times inline_seconds.
    assert sum(future.done() for future in futures) == 21
    assert [(await future).result for future in futures] == list(range(80))
    running = False
    await recording
    # The others run in batches that take inline_seconds at most, with loop iterations in between.
    assert iterations[0] == pytest.approx(start + 0.021)
    assert max(end - begin for begin, end in itertools.pairwise(iterations)) < 0.0051
    assert now == pytest.approx(start + 0.08)
    await batcher.drain()


async def test_with_inline_bytes_0_no_batch_runs_inline(runner: "Runner", small: "MakeRequest") -> None:
    batcher = Batcher(runner)
    for _ in range(10):
        await batcher.submit(small(None))
    assert len(runner.threads) == 10
    assert threading.current_thread() not in runner.threads
    await batcher.drain()
