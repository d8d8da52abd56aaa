"""Which items run together, and in what order."""

import asyncio
from typing import TYPE_CHECKING, Any

from poolservice_server.batcher import Batcher, Request

if TYPE_CHECKING:
    from tests.unit.batcher.conftest import MakeWork, Runner


async def test_calls_of_one_wakeup_run_together(runner: "Runner", small: "MakeWork") -> None:
    batcher = Batcher(runner)
    ran = await asyncio.gather(*(batcher.submit(small(number)) for number in range(5)))
    assert runner.batches == [[0, 1, 2, 3, 4]]
    assert [one.result for one in ran] == [0, 1, 2, 3, 4]
    assert {(one.device, one.batch_size) for one in ran} == {("test", 5)}
    await batcher.drain()


async def test_what_comes_while_a_batch_runs_gathers_into_the_next(runner: "Runner", held: "MakeWork") -> None:
    batcher = Batcher(runner, threads=1)
    first = batcher.submit(held("first"))
    await runner.has_started()
    others = [batcher.submit(held(number)) for number in range(3)]
    runner.let_go.set()
    assert (await first).result == "first"
    assert [(await other).batch_size for other in others] == [3, 3, 3]
    assert runner.batches == [["first"], [0, 1, 2]]
    await batcher.drain()


async def test_small_work_does_not_overtake_what_waits_for_a_lane(
    runner: "Runner", held: "MakeWork", small: "MakeWork"
) -> None:
    batcher = Batcher(runner, threads=1, inline_bytes=100)
    futures = [batcher.submit(held("running"))]
    await runner.has_started()
    futures += [batcher.submit(Request("large", "waiting", 100_000)), batcher.submit(small("small"))]
    runner.let_go.set()
    await asyncio.gather(*futures)
    assert runner.batches == [["running"], ["waiting"], ["small"]]
    await batcher.drain()


async def test_batches_are_cut_by_items_and_by_bytes(runner: "Runner") -> None:
    batcher = Batcher(runner, max_batch_size=3, max_batch_bytes=250)
    await asyncio.gather(*(batcher.submit(Request("few", number, 10)) for number in range(4)))
    await asyncio.gather(*(batcher.submit(Request("fat", number, 100)) for number in range(3)))
    await batcher.submit(Request("fat", "more than a batch", 1000))
    assert runner.batches == [[0, 1, 2], [3], [0, 1], [2], ["more than a batch"]]
    await batcher.drain()


async def test_groups_take_turns_by_their_oldest_member(runner: "Runner", small: "MakeWork") -> None:
    batcher = Batcher(runner, max_batch_size=2)
    order = "aabacb"
    await asyncio.gather(*(batcher.submit(small(f"{key}{n}", key=key)) for n, key in enumerate(order)))
    assert runner.batches == [["a0", "a1"], ["b2", "b5"], ["a3"], ["c4"]]
    await batcher.drain()


async def test_an_item_waits_for_company_no_longer_than_the_delay(runner: "Runner", small: "MakeWork") -> None:
    batcher = Batcher(runner, max_batch_delay=0.02)
    ran = await batcher.submit(small("alone"))
    assert 0.019 <= ran.queue_seconds < 5
    await batcher.drain()


async def test_with_a_delay_every_item_waits_for_company(runner: "Runner") -> None:
    batcher = Batcher(runner, inline_bytes=100, unbatched_bytes=50, max_batch_size=2, max_batch_delay=60)
    futures = [batcher.submit(Request("a", number, 50)) for number in range(2)]
    assert [(await future).batch_size for future in futures] == [2, 2]
    await batcher.drain()


async def test_a_full_batch_does_not_wait_for_company(runner: "Runner", small: "MakeWork") -> None:
    batcher = Batcher(runner, max_batch_delay=1000, max_batch_size=2)
    lonely = batcher.submit(small("lonely", key="other"))
    await asyncio.gather(batcher.submit(small(0)), batcher.submit(small(1)))
    assert runner.batches == [[0, 1]]
    await batcher.drain()
    assert (await lonely).result == "lonely"


def test_a_batcher_can_be_made_before_its_loop_runs(runner: "Runner", small: "MakeWork") -> None:
    batcher = Batcher(runner)

    async def ask() -> Any:
        result = (await batcher.submit(small("x"))).result
        await batcher.drain()
        return result

    assert asyncio.run(ask()) == "x"
