"""Requests whose payload is prepared on a thread first, as images are: batched and unbatched."""

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from poolservice.errors import InvalidRequest
from poolservice_server.batcher import Batcher, Completed, DeadlinePassed, QueueFull, Request, execution
from poolservice_server.stop import Stop

if TYPE_CHECKING:
    from tests.unit.batcher.conftest import Runner

Submit = Callable[..., "asyncio.Task[Completed]"]

# The requests of these tests have 1000 bytes.
UNBATCHED: dict[str, Any] = {"inline_bytes": 100, "unbatched_bytes": 1000}
BATCHED: dict[str, Any] = {"inline_bytes": 100, "unbatched_bytes": 1001}
both_paths = pytest.mark.parametrize("limits", [UNBATCHED, BATCHED], ids=["unbatched", "batched"])


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as threads:
        yield threads


@pytest.fixture
def submit(threads: ThreadPoolExecutor) -> Submit:
    """Return a function that submits a request that the only thread of `threads` prepares, as with an image."""

    def submit(
        batcher: Batcher, prepare: Callable[[], Any], deadline: float | None = None
    ) -> "asyncio.Task[Completed]":
        permit = batcher.reserve(1000)

        async def run() -> Completed:
            with permit:
                request = Request("a", lambda _stop: prepare(), 1000, deadline)
                return await batcher.prepare_and_run(request, permit, threads)

        return asyncio.ensure_future(run())

    return submit


@pytest.mark.parametrize(
    ("limits", "batched"),
    [
        (UNBATCHED, False),
        (BATCHED, True),
        ({**UNBATCHED, "inline_bytes": 0}, True),
        ({**UNBATCHED, "max_batch_delay": 60.0}, True),
    ],
    ids=["large", "small", "no inline batches", "batch delay"],
)
async def test_the_batcher_decides_whether_a_prepared_request_is_batched(
    runner: "Runner", submit: Submit, threads: ThreadPoolExecutor, limits: dict[str, Any], batched: bool
) -> None:
    # A batch of one is full, so that the batch delay need not pass.
    batcher = Batcher(runner, max_batch_size=1, **limits)
    thread = await asyncio.wrap_future(threads.submit(threading.current_thread))
    completed = await submit(batcher, threading.current_thread)
    assert (completed.result, completed.device, completed.batch_size) == (thread, "test", 1)
    # An unbatched request runs on the thread that prepared it.
    assert (runner.threads == [thread]) is not batched
    snapshot = batcher.snapshot()
    assert (snapshot.completed, snapshot.batches, snapshot.batched_requests) == (1, 1, 1)
    assert snapshot.admitted_requests == 0
    await batcher.drain()


async def test_a_request_that_must_not_be_batched_runs_on_the_thread_that_prepared_it(
    runner: "Runner", threads: ThreadPoolExecutor
) -> None:
    # Every limit says that batching gains something.
    batcher = Batcher(runner, max_batch_delay=60, **BATCHED)
    permit = batcher.reserve(1000)
    with permit:
        request = Request("a", lambda _stop: threading.current_thread(), 1000, is_unbatched=True)
        completed = await batcher.prepare_and_run(request, permit, threads)
    assert runner.threads == [completed.result]
    assert completed.batch_size == 1
    await batcher.drain()


async def test_prepared_requests_run_in_one_batch(runner: "Runner", submit: Submit) -> None:
    batcher = Batcher(runner, max_batch_size=2, max_batch_delay=60.0)
    outcomes = await asyncio.gather(submit(batcher, lambda: 1), submit(batcher, lambda: 2))
    assert [(one.result, one.batch_size) for one in outcomes] == [(1, 2), (2, 2)]
    assert runner.batches == [[1, 2]]
    await batcher.drain()


@both_paths
async def test_waiting_preparing_and_computing_are_timed_separately(
    submit: Submit, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, limits: dict[str, Any]
) -> None:
    now = 0.0

    def take(seconds: float) -> None:
        nonlocal now
        now += seconds

    def compute(_key: str, payloads: list[Any], _stop: Stop) -> list[Completed]:
        take(10.0)
        return [Completed(payload, "test", 1, 0.0, 0.0) for payload in payloads]

    monkeypatch.setattr(execution, "time", SimpleNamespace(perf_counter=lambda: now))
    batcher = Batcher(compute, clock=lambda: now, **limits)
    submitted = threading.Event()

    def occupy_thread() -> None:
        assert submitted.wait(60)
        take(1.0)

    occupied = threads.submit(occupy_thread)
    task = submit(batcher, lambda: take(100.0))
    await asyncio.sleep(0)
    submitted.set()
    completed = await task
    occupied.result()
    assert completed.queue_seconds == 1.0
    assert completed.prepare_seconds == 100.0
    assert completed.compute_seconds == 10.0
    await batcher.drain()


@both_paths
async def test_a_request_that_cannot_be_prepared_does_not_fail_others(
    runner: "Runner", submit: Submit, limits: dict[str, Any]
) -> None:
    batcher = Batcher(runner, **limits)

    def fail() -> None:
        raise ValueError("no image")

    good, bad = submit(batcher, lambda: 1), submit(batcher, fail)
    with pytest.raises(ValueError, match="no image"):
        await bad
    assert (await good).result == 1
    assert runner.batches == [[1]]
    await batcher.drain()
    snapshot = batcher.snapshot()
    assert (snapshot.completed, snapshot.failed, snapshot.admitted_requests) == (1, 1, 0)


async def test_a_preparation_that_exits_its_thread_fails_its_request(runner: "Runner", submit: Submit) -> None:
    batcher = Batcher(runner, **UNBATCHED)

    def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(RuntimeError, match=r"ended with SystemExit\(3\)"):
        await submit(batcher, leave)
    assert batcher.snapshot().failed == 1
    await batcher.drain()


@both_paths
async def test_a_request_that_cannot_be_prepared_frees_its_memory_without_the_garbage_collector(
    runner: "Runner", submit: Submit, limits: dict[str, Any]
) -> None:
    class Memory:
        pass

    batcher = Batcher(runner, **limits)
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
                await submit(batcher, refuse)
        await batcher.drain()
        await asyncio.sleep(0)
        assert [memory() for memory in memories] == [None] * 10
    finally:
        gc.enable()


async def test_an_unbatched_request_that_is_cancelled_or_expires_before_its_turn_is_not_prepared(
    runner: "Runner", submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    now = loop.time()
    monkeypatch.setattr(loop, "time", lambda: now)
    batcher = Batcher(runner, clock=lambda: now, **UNBATCHED)
    release = threading.Event()
    prepared: list[str] = []

    def preparing(name: str, then: Callable[[], Any] = lambda: None) -> Callable[[], Any]:
        def prepare() -> Any:
            prepared.append(name)
            return then()

        return prepare

    first = submit(batcher, preparing("first", lambda: release.wait(60)))
    cancelled = submit(batcher, preparing("cancelled"))
    expired = submit(batcher, preparing("expired"), now + 1)
    last = submit(batcher, preparing("last", lambda: "last"))
    await asyncio.sleep(0)
    assert cancelled.cancel()
    now += 1
    with pytest.raises(DeadlinePassed):
        await expired
    # They have left the queue, and need no memory any more.
    assert batcher.snapshot().admitted_requests == 2
    release.set()
    assert (await last).result == "last"
    assert (await first).result is True
    assert prepared == ["first", "last"]
    await batcher.drain()
    snapshot = batcher.snapshot()
    assert (snapshot.completed, snapshot.expired, snapshot.cancelled) == (2, 1, 1)
    assert snapshot.admitted_requests == 0


async def test_a_batched_request_that_is_cancelled_before_its_turn_is_not_prepared(
    runner: "Runner", submit: Submit
) -> None:
    batcher = Batcher(runner, **BATCHED)
    release = threading.Event()
    prepared: list[str] = []
    first = submit(batcher, lambda: release.wait(60))
    cancelled = submit(batcher, lambda: prepared.append("cancelled"))
    await asyncio.sleep(0)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert batcher.snapshot().admitted_requests == 1
    release.set()
    assert (await first).result is True
    assert prepared == []
    await batcher.drain()
    snapshot = batcher.snapshot()
    assert (snapshot.completed, snapshot.cancelled) == (1, 1)


async def test_a_deadline_settles_an_unbatched_request_while_it_is_prepared(
    runner: "Runner", submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    now = loop.time()
    monkeypatch.setattr(loop, "time", lambda: now)
    batcher = Batcher(runner, clock=lambda: now, **UNBATCHED)
    release = threading.Event()
    expired = submit(batcher, lambda: release.wait(60), now + 1)
    await asyncio.sleep(0)
    now += 1
    with pytest.raises(DeadlinePassed):
        await expired
    # Its memory is in use until the thread is done with it.
    assert batcher.snapshot().admitted_requests == 1
    release.set()
    await batcher.drain()
    assert batcher.snapshot().expired == 1


async def test_a_batched_request_whose_deadline_passes_while_it_is_prepared_does_not_run(
    runner: "Runner", submit: Submit
) -> None:
    now = 0.0

    def prepare() -> None:
        nonlocal now
        now += 2.0

    batcher = Batcher(runner, clock=lambda: now, **BATCHED)
    with pytest.raises(DeadlinePassed):
        await submit(batcher, prepare, 1.0)
    assert runner.batches == []
    assert batcher.snapshot().expired == 1
    assert batcher.snapshot().admitted_requests == 0
    await batcher.drain()


@both_paths
async def test_requests_in_preparation_count_towards_the_limits_and_are_awaited_by_drain(
    runner: "Runner", submit: Submit, limits: dict[str, Any]
) -> None:
    batcher = Batcher(runner, max_queue_items=2, **limits)
    release = threading.Event()
    both = [submit(batcher, lambda: release.wait(60)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(QueueFull):
        batcher.submit(Request("a", None, 1))
    draining = asyncio.ensure_future(batcher.drain())
    await asyncio.sleep(0)
    assert not draining.done()
    release.set()
    await draining
    assert [(await one).result for one in both] == [True, True]
