"""Limits of the batcher: how many requests and bytes it admits, and how it refuses others."""

import asyncio
from typing import TYPE_CHECKING

import pytest

from poolservice.errors import InvalidRequest
from poolservice_server.batcher import Batcher, Completed, Draining, QueueFull
from poolservice_server.stop import Stop

if TYPE_CHECKING:
    from tests.unit.batcher.conftest import AllReleased, MakeRequest, Runner


async def test_a_full_queue_refuses_immediately_and_says_when_to_retry(
    runner: "Runner", blocked: "MakeRequest", small: "MakeRequest"
) -> None:
    batcher = Batcher(runner, threads=1, max_queue_items=2)
    accepted = [batcher.submit(blocked(number)) for number in range(2)]
    with pytest.raises(QueueFull, match=r"retry in 0\.1 s") as refusal:
        batcher.submit(small("too many"))
    assert refusal.value.retry_after == pytest.approx(0.1)
    runner.release.set()
    await asyncio.gather(*accepted)
    assert (await batcher.submit(small("admitted"))).result == "admitted"
    assert batcher.snapshot().refused == 1
    await batcher.drain()


@pytest.mark.parametrize(
    ("max_queue_items", "max_queue_bytes", "nbytes", "retry_after"),
    [(20, 2**20, 10, 1.0), (1000, 1000, 501, 2.5)],
    ids=["by requests", "by bytes"],
)
async def test_retry_after_comes_from_the_measured_throughput(
    small: "MakeRequest", max_queue_items: int, max_queue_bytes: int, nbytes: int, retry_after: float
) -> None:
    now = 0.0

    def run(_: str, payloads: list[float], _stop: Stop) -> list[Completed]:
        nonlocal now
        now += sum(payloads)
        return [Completed(None, "test", 1, 0, 0) for _ in payloads]

    batcher = Batcher(run, max_queue_items=max_queue_items, max_queue_bytes=max_queue_bytes, clock=lambda: now)
    # 20 requests of 10 bytes in 2 seconds: 10 requests or 100 bytes per second.
    await asyncio.gather(*(batcher.submit(small(0.1)) for _ in range(20)))
    waiting = min(max_queue_items, max_queue_bytes // 20)
    for _ in range(waiting):
        batcher.submit(small(0.1))
    with pytest.raises(QueueFull) as refusal:
        batcher.reserve(nbytes)
    # Half of the time that the admitted requests take.
    assert refusal.value.retry_after == pytest.approx(retry_after)
    await batcher.drain()


async def test_bytes_are_bounded_and_a_request_that_never_fits_is_invalid(
    runner: "Runner", blocked: "MakeRequest"
) -> None:
    batcher = Batcher(runner, threads=1, max_queue_bytes=1000)
    accepted = batcher.submit(blocked(0, nbytes=600))
    with pytest.raises(QueueFull):
        batcher.submit(blocked(1, nbytes=401))
    with pytest.raises(InvalidRequest, match="take 1001 bytes, more than the 1000"):
        batcher.submit(blocked(2, nbytes=1001))
    runner.release.set()
    await accepted
    assert (await batcher.submit(blocked(3, nbytes=1000))).result == 3
    await batcher.drain()


async def test_a_request_cancelled_in_the_queue_does_not_run_and_needs_no_memory(
    runner: "Runner", blocked: "MakeRequest", small: "MakeRequest", all_released: "AllReleased"
) -> None:
    batcher = Batcher(runner, threads=1)
    running = batcher.submit(blocked("running", nbytes=5000))
    await runner.wait_for_start()
    waiting = batcher.submit(small("waiting"))
    assert batcher.snapshot().admitted_bytes == 5010
    waiting.cancel()
    assert batcher.snapshot().admitted_bytes == 5000
    running.cancel()
    # Its memory is in use until its batch ends.
    assert batcher.snapshot().admitted_bytes == 5000
    runner.release.set()
    await all_released(batcher)
    assert batcher.snapshot().admitted_bytes == 0
    assert runner.batches == [["running"]]


async def test_a_permit_is_held_until_both_its_owner_and_the_batch_are_done(
    runner: "Runner", blocked: "MakeRequest"
) -> None:
    batcher = Batcher(runner, threads=1)
    with batcher.reserve(5000) as permit:
        future = batcher.submit(blocked("first", nbytes=5000), permit)
        await runner.wait_for_start()
    assert batcher.snapshot().admitted_bytes == 5000
    runner.release.set()
    await future
    assert batcher.snapshot().admitted_bytes == 0
    with batcher.reserve(5000) as permit:
        await batcher.submit(blocked("second", nbytes=5000), permit)
        assert batcher.snapshot().admitted_bytes == 5000
    assert batcher.snapshot().admitted_bytes == 0
    await batcher.drain()


async def test_draining_refuses_new_requests_and_runs_accepted_ones(
    runner: "Runner", blocked: "MakeRequest", small: "MakeRequest"
) -> None:
    batcher = Batcher(runner, threads=1)
    accepted = [batcher.submit(blocked(number)) for number in range(3)]
    with batcher.reserve(10) as permit:
        drain = asyncio.ensure_future(batcher.drain())
        await runner.wait_for_start()
        with pytest.raises(Draining):
            batcher.submit(small("new"))
        with pytest.raises(Draining):
            batcher.reserve(10)
        runner.release.set()
        assert [(await one).result for one in accepted] == [0, 1, 2]
        assert not drain.done()
        assert (await batcher.submit(small("reserved before"), permit)).result == "reserved before"
        assert not drain.done()
    await drain
