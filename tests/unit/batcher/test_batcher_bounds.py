"""How much may be here at one time, who is refused, and what a refusal says."""

import asyncio
from typing import TYPE_CHECKING

import pytest

from poolservice.errors import InvalidRequest
from poolservice_server.batcher import Batcher, Completed, Draining, QueueFull

if TYPE_CHECKING:
    from tests.unit.batcher.conftest import MakeWork, Runner


async def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(
    runner: "Runner", held: "MakeWork", small: "MakeWork"
) -> None:
    batcher = Batcher(runner, threads=1, max_queue_items=2)
    accepted = [batcher.submit(held(number)) for number in range(2)]
    with pytest.raises(QueueFull, match=r"retry in 0\.1 s") as refusal:
        batcher.submit(small("too many"))
    assert refusal.value.retry_after == pytest.approx(0.1)
    runner.let_go.set()
    await asyncio.gather(*accepted)
    assert (await batcher.submit(small("welcome"))).result == "welcome"
    assert batcher.snapshot().refused == 1
    await batcher.drain()


async def test_retry_after_comes_from_the_measured_pace(small: "MakeWork") -> None:
    now = 0.0

    def run(_: str, payloads: list[float]) -> list[Completed]:
        nonlocal now
        now += sum(payloads)
        return [Completed(None, "test", 1, 0, 0) for _ in payloads]

    batcher = Batcher(run, max_queue_items=20, clock=lambda: now)
    # 20 items of 10 bytes in 2 seconds: 10 items, 100 bytes a second.
    await asyncio.gather(*(batcher.submit(small(0.1)) for _ in range(20)))
    assert batcher.snapshot().requests_per_second == pytest.approx(10)
    assert batcher.snapshot().bytes_per_second == pytest.approx(100)
    for _ in range(20):
        batcher.submit(small(0.1))
    with pytest.raises(QueueFull) as refusal:
        batcher.submit(small(0.1))
    assert refusal.value.retry_after == pytest.approx(1.0)
    await batcher.drain()


async def test_bytes_are_bounded_and_what_never_fits_is_refused_in_words(runner: "Runner", held: "MakeWork") -> None:
    batcher = Batcher(runner, threads=1, max_queue_bytes=1000)
    accepted = batcher.submit(held(0, nbytes=600))
    with pytest.raises(QueueFull):
        batcher.submit(held(1, nbytes=401))
    with pytest.raises(InvalidRequest, match="take 1001 bytes, more than the 1000"):
        batcher.submit(held(2, nbytes=1001))
    runner.let_go.set()
    await accepted
    assert (await batcher.submit(held(3, nbytes=1000))).result == 3
    await batcher.drain()


async def test_who_leaves_the_line_is_not_run_and_holds_nothing(
    runner: "Runner", held: "MakeWork", small: "MakeWork"
) -> None:
    batcher = Batcher(runner, threads=1)
    running = batcher.submit(held("running", nbytes=5000))
    await runner.has_started()
    waiting = batcher.submit(small("waiting"))
    assert batcher.snapshot().admitted_bytes == 5010
    waiting.cancel()
    assert batcher.snapshot().admitted_bytes == 5000
    running.cancel()
    # Its memory is in use until its batch ends.
    assert batcher.snapshot().admitted_bytes == 5000
    runner.let_go.set()
    await batcher.drain()
    assert batcher.snapshot().admitted_bytes == 0
    assert runner.batches == [["running"]]


async def test_a_place_holds_room_until_both_its_owner_and_the_batch_are_done(
    runner: "Runner", held: "MakeWork"
) -> None:
    batcher = Batcher(runner, threads=1)
    with batcher.reserve(5000) as permit:
        future = batcher.submit(held("mine", nbytes=5000), permit)
        await runner.has_started()
    assert batcher.snapshot().admitted_bytes == 5000
    runner.let_go.set()
    await future
    assert batcher.snapshot().admitted_bytes == 0
    with batcher.reserve(5000) as permit:
        await batcher.submit(held("mine", nbytes=5000), permit)
        assert batcher.snapshot().admitted_bytes == 5000
    assert batcher.snapshot().admitted_bytes == 0
    await batcher.drain()


async def test_draining_refuses_what_is_new_and_answers_what_was_accepted(
    runner: "Runner", held: "MakeWork", small: "MakeWork"
) -> None:
    batcher = Batcher(runner, threads=1)
    accepted = [batcher.submit(held(number)) for number in range(3)]
    with batcher.reserve(10) as permit:
        drain = asyncio.ensure_future(batcher.drain())
        await runner.has_started()
        with pytest.raises(Draining):
            batcher.submit(small("new"))
        with pytest.raises(Draining):
            batcher.reserve(10)
        runner.let_go.set()
        assert [(await one).result for one in accepted] == [0, 1, 2]
        assert not drain.done()
        assert (await batcher.submit(small("prepared meanwhile"), permit)).result == "prepared meanwhile"
        assert not drain.done()
    await drain
