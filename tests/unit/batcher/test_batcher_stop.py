"""Stopping: work that nobody waits for any more ends early, and leaves its threads to others."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from poolservice_server.batcher import Batcher, Completed, DeadlinePassed, Draining, Request
from poolservice_server.error_status import to_status
from poolservice_server.stop import Stop, WorkStopped

if TYPE_CHECKING:
    from tests.unit.batcher.conftest import AllReleased


class StoppableRunner:
    """Runs until its batch is stopped, or until `release` is set."""

    def __init__(self) -> None:
        self.started = threading.Semaphore(0)
        self.release = threading.Event()
        self.ended: list[str] = []
        # Released each time somebody still waits for the work.
        self.goes_on = threading.Semaphore(0)

    def __call__(self, _key: str, payloads: list[Any], stop: Stop) -> list[Completed]:
        self.started.release()
        while not self.release.wait(0.001):
            if stop():
                self.ended.append("stopped")
                raise WorkStopped
            self.goes_on.release()
        self.ended.append("completed")
        return [Completed(payload, "test", len(payloads), 0, 0) for payload in payloads]

    async def wait_for_start(self) -> None:
        assert await asyncio.to_thread(self.started.acquire, timeout=60)


@pytest.fixture
def stoppable() -> Iterator[StoppableRunner]:
    runner = StoppableRunner()
    yield runner
    runner.release.set()


async def test_work_stops_when_all_callers_of_its_batch_have_left(
    stoppable: StoppableRunner, all_released: "AllReleased"
) -> None:
    batcher = Batcher(stoppable, threads=1)
    futures = [batcher.submit(Request("a", number, 10)) for number in range(3)]
    await stoppable.wait_for_start()
    for future in futures:
        assert stoppable.ended == []
        future.cancel()
    await all_released(batcher)
    assert stoppable.ended == ["stopped"]
    snapshot = batcher.snapshot()
    assert (snapshot.stopped, snapshot.cancelled, snapshot.failed, snapshot.admitted_requests) == (1, 3, 0, 0)


async def test_work_goes_on_while_one_caller_waits(stoppable: StoppableRunner) -> None:
    batcher = Batcher(stoppable, threads=1)
    left, stays = batcher.submit(Request("a", "left", 10)), batcher.submit(Request("a", "stays", 10))
    await stoppable.wait_for_start()
    left.cancel()
    while stoppable.goes_on.acquire(blocking=False):
        pass
    # The first of these may be the end of a question that was asked before the caller left.
    for _ in range(2):
        assert await asyncio.to_thread(stoppable.goes_on.acquire, timeout=60)
    stoppable.release.set()
    assert (await stays).result == "stays"
    assert stoppable.ended == ["completed"]
    await batcher.drain()


async def test_work_stops_when_its_deadline_passes(
    stoppable: StoppableRunner, all_released: "AllReleased", monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    now = loop.time()
    monkeypatch.setattr(loop, "time", lambda: now)
    batcher = Batcher(stoppable, threads=1, clock=lambda: now)
    late = batcher.submit(Request("a", "late", 10, now + 1.0))
    await stoppable.wait_for_start()
    now += 1.0
    with pytest.raises(DeadlinePassed):
        await late
    await all_released(batcher)
    assert stoppable.ended == ["stopped"]
    assert batcher.snapshot().expired == 1


async def test_abandoned_requests_end_as_unavailable_and_their_work_stops(
    stoppable: StoppableRunner, all_released: "AllReleased"
) -> None:
    batcher = Batcher(stoppable, threads=1)
    futures = [batcher.submit(Request(key, key, 10)) for key in ("running", "waiting")]
    await stoppable.wait_for_start()
    draining = asyncio.ensure_future(batcher.drain())
    await asyncio.sleep(0)
    batcher.abandon()
    for future in futures:
        with pytest.raises(Draining):
            await future
    await draining
    await all_released(batcher)
    assert stoppable.ended == ["stopped"]
    assert batcher.snapshot().failed == 2


async def test_a_preparation_learns_that_its_caller_has_left(
    stoppable: StoppableRunner, all_released: "AllReleased"
) -> None:
    batcher = Batcher(stoppable, threads=1)
    with ThreadPoolExecutor(2) as threads, batcher.reserve(10) as permit:
        preparing = Request("a", lambda stop: stoppable("a", [None], stop), 10)
        task = asyncio.ensure_future(batcher.prepare_and_run(preparing, permit, threads))
        await stoppable.wait_for_start()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await all_released(batcher)
    assert stoppable.ended == ["stopped"]
    assert batcher.snapshot().stopped == 1


async def test_the_run_of_an_unbatched_request_stops_when_its_caller_leaves(
    stoppable: StoppableRunner, all_released: "AllReleased"
) -> None:
    batcher = Batcher(stoppable, threads=1)
    with ThreadPoolExecutor(2) as threads, batcher.reserve(10) as permit:
        unbatched = Request("a", lambda _stop: None, 10, is_unbatched=True)
        task = asyncio.ensure_future(batcher.prepare_and_run(unbatched, permit, threads))
        await stoppable.wait_for_start()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await all_released(batcher)
    assert stoppable.ended == ["stopped"]


def test_stopped_work_is_never_an_internal_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert to_status(WorkStopped()).code == 1
    assert capsys.readouterr().out == ""
