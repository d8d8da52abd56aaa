"""Short preparations that are handed to the threads ahead."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from poolservice_server.batcher import Batcher, Completed, Request

if TYPE_CHECKING:
    from tests.unit.batcher.conftest import AllReleased, Runner

Submit = Callable[..., "asyncio.Task[Completed]"]


class Preparing:
    """A payload whose preparation waits until `release` is set."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.release = threading.Event()

    def __call__(self, _stop: object) -> str:
        self.started.set()
        assert self.release.wait(60)
        return "prepared"


@pytest.fixture
def batcher(runner: "Runner") -> Batcher:
    """A batcher that hands over ahead while the short preparations in flight take less than a second."""
    return Batcher(runner, prepare_threads=1, prepare_ahead_seconds=1.0, long_seconds=2.0)


@pytest.fixture
def submit(batcher: Batcher) -> Iterator[Submit]:
    """Return a function that submits a request whose preparation takes these estimated seconds."""
    with ThreadPoolExecutor(1) as threads:

        def submit(preparing: Preparing, seconds: float = 0.1) -> "asyncio.Task[Completed]":
            async def run() -> Completed:
                with batcher.reserve(10) as permit:
                    request = Request("a", preparing, 10, prepare_seconds=seconds)
                    return await batcher.prepare_and_run(request, permit, threads)

            return asyncio.ensure_future(run())

        yield submit


async def test_a_thread_takes_the_next_preparation_while_the_event_loop_is_busy(
    batcher: Batcher, submit: Submit
) -> None:
    first, second = Preparing(), Preparing()
    tasks = [submit(first), submit(second)]
    await asyncio.sleep(0)
    assert batcher.snapshot().queue_entries == 0
    first.release.set()
    # The event loop does not run meanwhile.
    assert second.started.wait(60)
    second.release.set()
    assert [completed.result for completed in await asyncio.gather(*tasks)] == ["prepared", "prepared"]
    await batcher.drain()


async def test_no_more_is_handed_over_than_the_limit(batcher: Batcher, submit: Submit) -> None:
    preparing = [Preparing() for _ in range(4)]
    tasks = [submit(one, seconds=0.6) for one in preparing]
    await asyncio.sleep(0)
    # The first has the thread, and the second is handed over because 0.6 s are less than the limit.
    assert batcher.snapshot().queue_entries == 2
    for one in preparing:
        one.release.set()
    await asyncio.gather(*tasks)
    assert batcher.snapshot().queue_entries == 0
    await batcher.drain()


async def test_nothing_is_handed_over_while_long_work_waits(batcher: Batcher, submit: Submit) -> None:
    first, long, short = Preparing(), Preparing(), Preparing()
    tasks = [submit(first), submit(long, seconds=5.0), submit(short)]
    await asyncio.sleep(0)
    assert batcher.snapshot().queue_entries == 2
    for one in (first, long, short):
        one.release.set()
    await asyncio.gather(*tasks)
    await batcher.drain()


async def test_a_preparation_that_is_cancelled_after_it_was_handed_over_does_not_start(
    batcher: Batcher, submit: Submit, all_released: "AllReleased"
) -> None:
    first, cancelled = Preparing(), Preparing()
    tasks = [submit(first), submit(cancelled)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks[1]
    first.release.set()
    assert (await tasks[0]).result == "prepared"
    await all_released(batcher)
    assert not cancelled.started.is_set()
