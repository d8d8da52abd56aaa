"""Items that are prepared where they run, by themselves."""

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from poolservice.errors import InvalidRequest
from poolservice_server.batcher import Batcher, Completed, DeadlinePassed, QueueFull, Request, execution

if TYPE_CHECKING:
    from tests.unit.batcher.conftest import Runner

Submit = Callable[[Batcher, Callable[[], Any]], "asyncio.Future[Any]"]


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as threads:
        yield threads


@pytest.fixture
def apart(threads: ThreadPoolExecutor) -> Submit:
    """Submits what is prepared by a call, as the server does with a picture."""

    def submit(batcher: Batcher, prepare: Callable[[], Any], deadline: float | None = None) -> "asyncio.Future[Any]":
        with batcher.reserve(1000) as permit:
            return batcher.submit_unbatched(Request("a", prepare, 1000, deadline), permit, threads)

    return submit


async def test_an_item_is_prepared_and_run_on_the_same_thread(
    runner: "Runner", apart: Submit, threads: ThreadPoolExecutor
) -> None:
    batcher = Batcher(runner)
    (thread,) = [await asyncio.wrap_future(threads.submit(threading.current_thread))]
    prepared: list[threading.Thread] = []

    def prepare() -> str:
        prepared.append(threading.current_thread())
        return "planes"

    ran = await apart(batcher, prepare)
    assert (ran.result, ran.device, ran.batch_size) == ("planes", "test", 1)
    assert [*prepared, *runner.threads] == [thread, thread]
    snapshot = batcher.snapshot()
    assert (snapshot.completed, snapshot.batches, snapshot.admitted_requests) == (1, {1: 1}, 0)
    await batcher.drain()


async def test_the_time_that_preparing_takes_is_neither_waiting_nor_computing(
    apart: Submit, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0

    def take(seconds: float) -> None:
        nonlocal now
        now += seconds

    def compute(_key: str, payloads: list[Any]) -> list[Completed]:
        take(10.0)
        return [Completed(payload, "test", 1, 0.0, 0.0) for payload in payloads]

    monkeypatch.setattr(execution, "time", SimpleNamespace(perf_counter=lambda: now))
    batcher = Batcher(compute, clock=lambda: now)
    occupied = threading.Event()

    def keep_busy() -> None:
        assert occupied.wait(60)
        take(1.0)

    # The only thread.
    busy = threads.submit(keep_busy)
    asked = apart(batcher, lambda: take(100.0))
    occupied.set()
    ran = await asked
    busy.result()
    assert (ran.queue_seconds, ran.compute_seconds) == (1.0, 10.0)
    await batcher.drain()


async def test_what_cannot_be_prepared_fails_alone(runner: "Runner", apart: Submit) -> None:
    batcher = Batcher(runner)

    def fail() -> None:
        raise ValueError("no picture")

    def leave() -> None:
        raise SystemExit(3)

    good, bad, ugly = apart(batcher, lambda: 1), apart(batcher, fail), apart(batcher, leave)
    with pytest.raises(ValueError, match="no picture"):
        await bad
    with pytest.raises(RuntimeError, match=r"ended with SystemExit\(3\)"):
        await ugly
    assert (await good).result == 1
    assert runner.batches == [[1]]
    assert batcher.snapshot().failed == 2
    await batcher.drain()
    assert batcher.snapshot().admitted_requests == 0


async def test_what_cannot_be_prepared_gives_its_memory_back_without_the_collector(
    runner: "Runner", apart: Submit
) -> None:
    class Memory:
        pass

    batcher = Batcher(runner)
    memories: list[weakref.ref[Memory]] = []

    def refuse() -> None:
        memory = Memory()
        memories.append(weakref.ref(memory))
        try:
            raise OSError("as Pillow does")
        except OSError:
            raise InvalidRequest("is damaged") from None

    gc.disable()
    try:
        for _ in range(10):
            with pytest.raises(InvalidRequest):
                await apart(batcher, refuse)
        await batcher.drain()
        await asyncio.sleep(0)
        assert [memory() for memory in memories] == [None] * 10
    finally:
        gc.enable()


async def test_whoever_leaves_or_expires_before_the_turn_costs_nothing(
    runner: "Runner", apart: Callable[..., "asyncio.Future[Any]"]
) -> None:
    batcher = Batcher(runner)
    let_go = threading.Event()
    prepared: list[str] = []

    def preparing(name: str, then: Callable[[], Any] = lambda: None) -> Callable[[], Any]:
        def prepare() -> Any:
            prepared.append(name)
            return then()

        return prepare

    first = apart(batcher, preparing("first", lambda: let_go.wait(60)))
    leaver = apart(batcher, preparing("leaver"))
    late = apart(batcher, preparing("late"), time.monotonic() + 0.05)
    last = apart(batcher, preparing("last", lambda: "last"))
    assert leaver.cancel()
    with pytest.raises(DeadlinePassed):
        await late
    # Their places are theirs until their turn has passed.
    assert batcher.snapshot().admitted_requests == 4
    let_go.set()
    assert (await last).result == "last"
    assert (await first).result is True
    assert prepared == ["first", "last"]
    await batcher.drain()
    snapshot = batcher.snapshot()
    assert (snapshot.completed, snapshot.expired, snapshot.cancelled, snapshot.admitted_requests) == (2, 1, 1, 0)


async def test_they_count_towards_the_bounds_and_are_waited_for(
    runner: "Runner", apart: Submit, threads: ThreadPoolExecutor
) -> None:
    batcher = Batcher(runner, max_queue_items=2)
    let_go = threading.Event()
    both = [apart(batcher, lambda: let_go.wait(60)) for _ in range(2)]
    with pytest.raises(QueueFull):
        batcher.submit(Request("a", None, 1))
    draining = asyncio.ensure_future(batcher.drain())
    await asyncio.sleep(0)
    assert not draining.done()
    let_go.set()
    await draining
    assert [(await one).result for one in both] == [True, True]


def test_only_what_is_large_and_may_run_on_the_loop_gains_nothing_by_company(runner: "Runner") -> None:
    batcher = Batcher(runner, inline_bytes=100, unbatched_bytes=50)
    assert [batcher.gains_from_batching(nbytes) for nbytes in (49, 50)] == [True, False]
    assert Batcher(runner, inline_bytes=0, unbatched_bytes=50).gains_from_batching(50)
    assert Batcher(runner, inline_bytes=100, unbatched_bytes=50, max_batch_delay=0.01).gains_from_batching(50)
