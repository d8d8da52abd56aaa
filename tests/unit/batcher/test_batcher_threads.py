"""Where batches run: on the event loop what is soon done, on threads what is not."""

import asyncio
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from poolservice_server.batcher import Batcher, Request

if TYPE_CHECKING:
    from tests.unit.batcher.conftest import MakeWork, Runner


async def test_of_unknown_kinds_small_batches_run_on_the_loop_and_large_ones_on_a_thread(runner: "Runner") -> None:
    batcher = Batcher(runner, inline_bytes=100)
    await batcher.submit(Request("a", None, 100))
    await batcher.submit(Request("b", None, 101))
    assert runner.threads[0] is threading.current_thread()
    assert runner.threads[1] is not threading.current_thread()
    assert batcher.snapshot().inline_batches == 1
    await batcher.drain()


async def test_large_batches_run_on_the_loop_once_their_kind_has_proved_quick(runner: "Runner") -> None:
    batcher = Batcher(runner, inline_bytes=100)
    # More than once, since a busy machine may hold the first one up.
    for _ in range(10):
        await batcher.submit(Request("quick", None, 100_000))
    assert runner.threads[0] is not threading.current_thread()
    assert runner.threads[-1] is threading.current_thread()
    await batcher.drain()


async def test_small_batches_run_on_a_thread_once_their_kind_has_proved_slow(
    runner_that_takes: Callable[[float], "Runner"], small: "MakeWork"
) -> None:
    runner = runner_that_takes(0.005)
    batcher = Batcher(runner, inline_bytes=100)
    await batcher.submit(small(1))
    await batcher.submit(small(2))
    assert runner.threads[0] is threading.current_thread()
    assert runner.threads[1] is not threading.current_thread()
    await batcher.drain()


async def test_batches_of_a_slow_kind_are_cut_by_the_time_that_they_take(
    runner_that_takes: Callable[[float], "Runner"], small: "MakeWork"
) -> None:
    runner = runner_that_takes(0.005)
    batcher = Batcher(runner, max_batch_seconds=0.02)
    await asyncio.gather(*(batcher.submit(small(number)) for number in range(10)))
    assert runner.batches == [[*range(10)]]
    await asyncio.gather(*(batcher.submit(small(number)) for number in range(10)))
    _, *cut = runner.batches
    # Four items at the most, fewer where the machine was held up before.
    assert max(map(len, cut)) <= 4
    assert [number for batch in cut for number in batch] == [*range(10)]
    await batcher.drain()


async def test_an_item_that_gains_nothing_by_company_runs_as_it_comes(runner: "Runner") -> None:
    # With a minute to spare on the loop, since a busy machine may hold the first one up.
    batcher = Batcher(runner, inline_bytes=100, inline_seconds=60, unbatched_bytes=50)
    assert batcher.submit(Request("a", 1, 50)).done()
    gains = batcher.submit(Request("a", 2, 49))
    behind = batcher.submit(Request("a", 3, 50))
    assert not gains.done()
    assert not behind.done()
    assert (await behind).batch_size == 2
    assert gains.done()
    assert runner.batches == [[1], [2, 3]]
    assert batcher.snapshot().inline_batches == 2
    await batcher.drain()


async def test_an_item_whose_predecessor_came_alone_does_not_wait_for_company(
    runner: "Runner", small: "MakeWork"
) -> None:
    batcher = Batcher(runner, inline_bytes=100, inline_seconds=60)
    first = batcher.submit(small(1))
    assert not first.done()
    await first
    assert batcher.submit(small(2)).done()
    # Two in a turn of the loop: the next turn may bring several again.
    assert (await batcher.submit(small(3))).batch_size == 1
    fourth, fifth = batcher.submit(small(4)), batcher.submit(small(5))
    assert not fourth.done()
    assert (await fifth).batch_size == 2
    assert runner.batches == [[1], [2], [3], [4, 5]]
    await batcher.drain()


async def test_many_items_at_once_leave_the_loop_its_turns(runner_that_takes: Callable[[float], "Runner"]) -> None:
    turns = 0
    running = True

    async def count_turns() -> None:
        nonlocal turns
        while running:
            turns += 1
            await asyncio.sleep(0)

    batcher = Batcher(runner_that_takes(0.001), inline_bytes=100, inline_seconds=0.005, unbatched_bytes=50)
    await batcher.submit(Request("a", 0, 50))
    counting = asyncio.create_task(count_turns())
    futures = [batcher.submit(Request("a", number, 50)) for number in range(80)]
    assert futures[0].done()
    assert not futures[-1].done()
    assert [(await future).result for future in futures] == list(range(80))
    assert turns >= 5
    running = False
    await counting
    await batcher.drain()


async def test_no_batch_runs_on_the_loop_where_none_may(runner: "Runner", small: "MakeWork") -> None:
    batcher = Batcher(runner)
    for _ in range(10):
        await batcher.submit(small(None))
    assert len(runner.threads) == 10
    assert threading.current_thread() not in runner.threads
    await batcher.drain()
