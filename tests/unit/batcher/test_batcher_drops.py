"""Requests that are dropped while they wait are counted by reason; those that run are not dropped."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from poolservice_server.batcher import Batcher, DeadlinePassed, Draining, Request
from poolservice_server.stop import Stop

if TYPE_CHECKING:
    from tests.unit.batcher.conftest import AllReleased, MakeRequest, Runner


def drops(batcher: Batcher) -> dict[str, int]:
    return dict(batcher.snapshot().drops)


async def test_requests_that_leave_while_they_wait_are_dropped_and_one_that_runs_is_not(
    runner: "Runner", blocked: "MakeRequest", all_released: "AllReleased"
) -> None:
    batcher = Batcher(runner, threads=1)
    running = batcher.submit(blocked("running"))
    await runner.wait_for_start()
    waiting = [batcher.submit(blocked(number, nbytes=1000)) for number in range(3)]
    assert batcher.snapshot().queue_bytes == 3000
    for request in (running, *waiting):
        request.cancel()
    assert drops(batcher) == {"cancelled": 3}
    assert batcher.snapshot().cancelled == 4
    assert batcher.snapshot().queue_bytes == 0
    runner.release.set()
    await all_released(batcher)


async def test_requests_whose_deadline_passes_before_they_run_are_dropped(
    runner: "Runner", blocked: "MakeRequest"
) -> None:
    batcher = Batcher(runner, threads=1)
    running = batcher.submit(blocked("running"))
    await runner.wait_for_start()
    waiting = batcher.submit(blocked("waiting", deadline=time.monotonic() + 0.01))
    with pytest.raises(DeadlinePassed):
        await waiting
    with pytest.raises(DeadlinePassed):
        batcher.submit(blocked("late", deadline=time.monotonic() - 1))
    assert drops(batcher) == {"deadline": 2}
    runner.release.set()
    await running
    await batcher.drain()


async def test_requests_that_wait_when_the_server_gives_up_are_dropped(
    runner: "Runner", blocked: "MakeRequest", all_released: "AllReleased"
) -> None:
    batcher = Batcher(runner, threads=1)
    running = batcher.submit(blocked("running"))
    await runner.wait_for_start()
    waiting = batcher.submit(blocked("waiting"))
    batcher.abandon()
    outcomes = await asyncio.gather(running, waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Draining, Draining]
    assert drops(batcher) == {"stopping": 1}
    runner.release.set()
    await all_released(batcher)


async def test_images_that_wait_to_be_decoded_are_dropped_too(runner: "Runner") -> None:
    started, release = threading.Event(), threading.Event()

    def decode(_stop: Stop) -> str:
        started.set()
        release.wait(60)
        return "decoded"

    batcher = Batcher(runner, prepare_threads=1)
    with ThreadPoolExecutor(2) as threads:
        tasks = [
            asyncio.create_task(batcher.prepare_and_run(Request("image", decode, 10), batcher.reserve(10), threads))
            for _ in range(2)
        ]
        await asyncio.to_thread(started.wait, 60)
        assert batcher.snapshot().queue_bytes == 10
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert drops(batcher) == {"cancelled": 1}
        release.set()
