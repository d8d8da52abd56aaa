"""The batcher's rules, one by one, on a real loop and real threads."""

import asyncio
import threading
import time
from typing import Any, NamedTuple

import pytest

from poolservice.errors import InvalidRequest
from poolservice_server.batcher import Batcher, DeadlinePassed, Draining, QueueFull, Ran, Work

LARGE = 100_000


class Answer(NamedTuple):
    result: Any
    device: str
    batch_size: int


class Runner:
    """Echoes its payloads; batches of key "held" wait until they are let go."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.threads: list[threading.Thread] = []
        self.started = threading.Semaphore(0)
        self.let_go = threading.Event()

    def __call__(self, key: str, payloads: list[Any]) -> list[Answer | Exception]:
        self.batches.append(list(payloads))
        self.threads.append(threading.current_thread())
        self.started.release()
        if key == "held":
            assert self.let_go.wait(60)
        return [
            payload if isinstance(payload, Exception) else Answer(payload, "test", len(payloads))
            for payload in payloads
        ]

    async def has_started(self) -> None:
        """Wait until one more batch has started, on whichever thread."""
        assert await asyncio.to_thread(self.started.acquire, timeout=60)


@pytest.fixture
def runner() -> Runner:
    return Runner()


def held(payload: Any, *, nbytes: int = LARGE, deadline: float | None = None) -> Work:
    return Work("held", payload, nbytes, deadline)


def small(payload: Any, *, key: str = "small") -> Work:
    return Work(key, payload, 10)


async def test_calls_of_one_wakeup_run_together(runner: Runner) -> None:
    batcher = Batcher(runner)
    ran = await asyncio.gather(*(batcher.submit(small(number)) for number in range(5)))
    assert runner.batches == [[0, 1, 2, 3, 4]]
    assert [one.result for one in ran] == [0, 1, 2, 3, 4]
    assert {(one.device, one.batch_size) for one in ran} == {("test", 5)}
    await batcher.drain()


async def test_what_comes_while_a_batch_runs_gathers_into_the_next(runner: Runner) -> None:
    batcher = Batcher(runner, threads=1)
    first = batcher.submit(held("first"))
    await runner.has_started()
    others = [batcher.submit(held(number)) for number in range(3)]
    runner.let_go.set()
    assert (await first).result == "first"
    assert [(await other).batch_size for other in others] == [3, 3, 3]
    assert runner.batches == [["first"], [0, 1, 2]]
    await batcher.drain()


async def test_of_unknown_kinds_small_batches_run_on_the_loop_and_large_ones_on_a_thread(runner: Runner) -> None:
    batcher = Batcher(runner, inline_bytes=100)
    await batcher.submit(Work("a", None, 100))
    await batcher.submit(Work("b", None, 101))
    assert runner.threads[0] is threading.current_thread()
    assert runner.threads[1] is not threading.current_thread()
    assert batcher.snapshot().inline_batches == 1
    await batcher.drain()


async def test_large_batches_run_on_the_loop_once_their_kind_has_proved_quick(runner: Runner) -> None:
    batcher = Batcher(runner, inline_bytes=100)
    # More than once, since a busy machine may hold the first one up.
    for _ in range(10):
        await batcher.submit(Work("quick", None, LARGE))
    assert runner.threads[0] is not threading.current_thread()
    assert runner.threads[-1] is threading.current_thread()
    await batcher.drain()


async def test_small_batches_run_on_a_thread_once_their_kind_has_proved_slow() -> None:
    threads = []

    def run_slowly(_key: str, payloads: list[Any]) -> list[Answer]:
        threads.append(threading.current_thread())
        until = time.perf_counter() + 0.005
        while time.perf_counter() < until:
            pass
        return [Answer(payload, "test", len(payloads)) for payload in payloads]

    batcher = Batcher(run_slowly, inline_bytes=100)
    await batcher.submit(small(1))
    await batcher.submit(small(2))
    assert threads[0] is threading.current_thread()
    assert threads[1] is not threading.current_thread()
    await batcher.drain()


async def test_batches_of_a_slow_kind_are_cut_by_the_time_that_they_take() -> None:
    sizes = []

    def run_slowly(_key: str, payloads: list[Any]) -> list[Answer]:
        sizes.append(len(payloads))
        until = time.perf_counter() + 0.005 * len(payloads)
        while time.perf_counter() < until:
            pass
        return [Answer(payload, "test", len(payloads)) for payload in payloads]

    batcher = Batcher(run_slowly, max_batch_seconds=0.02)
    await asyncio.gather(*(batcher.submit(small(number)) for number in range(10)))
    assert sizes == [10]
    await asyncio.gather(*(batcher.submit(small(number)) for number in range(10)))
    # Four items at the most, fewer where the machine was held up before.
    assert max(sizes[1:]) <= 4
    assert sum(sizes[1:]) == 10
    await batcher.drain()


async def test_an_item_that_gains_nothing_by_company_runs_as_it_comes(runner: Runner) -> None:
    batcher = Batcher(runner, inline_bytes=100, solo_bytes=50)
    assert batcher.submit(Work("a", 1, 50)).done()
    small = batcher.submit(Work("a", 2, 49))
    behind = batcher.submit(Work("a", 3, 50))
    assert not small.done()
    assert not behind.done()
    assert (await behind).batch_size == 2
    assert small.done()
    assert runner.batches == [[1], [2, 3]]
    assert batcher.snapshot().inline_batches == 2
    await batcher.drain()


async def test_many_items_at_once_leave_the_loop_its_turns() -> None:
    turns = 0
    running = True

    def run_briefly(_key: str, payloads: list[Any]) -> list[Answer]:
        until = time.perf_counter() + 0.001 * len(payloads)
        while time.perf_counter() < until:
            pass
        return [Answer(payload, "test", len(payloads)) for payload in payloads]

    async def count_turns() -> None:
        nonlocal turns
        while running:
            turns += 1
            await asyncio.sleep(0)

    batcher = Batcher(run_briefly, inline_bytes=100, inline_seconds=0.005, solo_bytes=50)
    await batcher.submit(Work("a", 0, 50))
    counting = asyncio.create_task(count_turns())
    futures = [batcher.submit(Work("a", number, 50)) for number in range(40)]
    assert not futures[-1].done()
    assert [(await future).result for future in futures] == list(range(40))
    assert turns >= 5
    running = False
    await counting
    await batcher.drain()


async def test_with_a_delay_every_item_waits_for_company(runner: Runner) -> None:
    batcher = Batcher(runner, inline_bytes=100, solo_bytes=50, max_batch_size=2, max_batch_delay=60)
    futures = [batcher.submit(Work("a", number, 50)) for number in range(2)]
    assert [(await future).batch_size for future in futures] == [2, 2]
    await batcher.drain()


async def test_no_batch_runs_on_the_loop_where_none_may(runner: Runner) -> None:
    batcher = Batcher(runner)
    for _ in range(10):
        await batcher.submit(small(None))
    assert threading.current_thread() not in runner.threads
    await batcher.drain()


async def test_small_work_does_not_overtake_what_waits_for_a_lane(runner: Runner) -> None:
    batcher = Batcher(runner, threads=1, inline_bytes=100)
    futures = [batcher.submit(held("running"))]
    await runner.has_started()
    futures += [batcher.submit(Work("large", "waiting", LARGE)), batcher.submit(small("small"))]
    runner.let_go.set()
    await asyncio.gather(*futures)
    assert runner.batches == [["running"], ["waiting"], ["small"]]
    await batcher.drain()


async def test_batches_are_cut_by_items_and_by_bytes(runner: Runner) -> None:
    batcher = Batcher(runner, max_batch_size=3, max_batch_bytes=250)
    await asyncio.gather(*(batcher.submit(Work("few", number, 10)) for number in range(4)))
    await asyncio.gather(*(batcher.submit(Work("fat", number, 100)) for number in range(3)))
    await batcher.submit(Work("fat", "more than a batch", 1000))
    assert runner.batches == [[0, 1, 2], [3], [0, 1], [2], ["more than a batch"]]
    await batcher.drain()


async def test_groups_take_turns_by_their_oldest_member(runner: Runner) -> None:
    batcher = Batcher(runner, max_batch_size=2)
    order = "aabacb"
    await asyncio.gather(*(batcher.submit(small(f"{key}{n}", key=key)) for n, key in enumerate(order)))
    assert runner.batches == [["a0", "a1"], ["b2", "b5"], ["a3"], ["c4"]]
    await batcher.drain()


async def test_an_item_waits_for_company_no_longer_than_the_delay(runner: Runner) -> None:
    batcher = Batcher(runner, max_batch_delay=0.02)
    ran = await batcher.submit(small("alone"))
    assert 0.019 <= ran.queue_seconds < 5
    await batcher.drain()


async def test_a_full_batch_does_not_wait_for_company(runner: Runner) -> None:
    batcher = Batcher(runner, max_batch_delay=1000, max_batch_size=2)
    lonely = batcher.submit(small("lonely", key="other"))
    await asyncio.gather(batcher.submit(small(0)), batcher.submit(small(1)))
    assert runner.batches == [[0, 1]]
    await batcher.drain()
    assert (await lonely).result == "lonely"


async def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(runner: Runner) -> None:
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


async def test_retry_after_comes_from_the_measured_pace() -> None:
    now = 0.0

    def run(_: str, payloads: list[float]) -> list[Answer]:
        nonlocal now
        now += sum(payloads)
        return [Answer(None, "test", 1) for _ in payloads]

    batcher = Batcher(run, max_queue_items=20, clock=lambda: now)
    # 20 items of 10 bytes in 2 seconds: 10 items, 100 bytes a second.
    await asyncio.gather(*(batcher.submit(small(0.1)) for _ in range(20)))
    assert batcher.snapshot().items_per_second == pytest.approx(10)
    assert batcher.snapshot().bytes_per_second == pytest.approx(100)
    for _ in range(20):
        batcher.submit(small(0.1))
    with pytest.raises(QueueFull) as refusal:
        batcher.submit(small(0.1))
    assert refusal.value.retry_after == pytest.approx(1.0)
    await batcher.drain()


async def test_bytes_are_bounded_and_what_never_fits_is_refused_in_words(runner: Runner) -> None:
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


async def test_a_caller_that_leaves_does_not_shift_the_answers_of_others(runner: Runner) -> None:
    batcher = Batcher(runner, threads=1)
    tasks = [asyncio.ensure_future(_ask(batcher, held(number))) for number in range(5)]
    await runner.has_started()
    tasks[1].cancel()
    tasks[3].cancel()
    runner.let_go.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [result for result in results if not isinstance(result, BaseException)] == [0, 2, 4]
    assert batcher.snapshot().cancelled == 2
    await batcher.drain()


async def _ask(batcher: Batcher, work: Work) -> Any:
    return (await batcher.submit(work)).result


async def test_who_leaves_the_line_is_not_run_and_holds_nothing(runner: Runner) -> None:
    batcher = Batcher(runner, threads=1)
    running = batcher.submit(held("running"))
    await runner.has_started()
    waiting = batcher.submit(small("waiting"))
    waiting.cancel()
    assert batcher.snapshot().held_bytes == LARGE
    running.cancel()
    # Its memory is in use until its batch ends.
    assert batcher.snapshot().held_bytes == LARGE
    runner.let_go.set()
    await batcher.drain()
    assert batcher.snapshot().held_bytes == 0
    assert runner.batches == [["running"]]


async def test_a_deadline_settles_whoever_waits_or_runs(runner: Runner) -> None:
    batcher = Batcher(runner, threads=1)
    soon = time.monotonic() + 0.05
    running = batcher.submit(held("running", deadline=soon))
    await runner.has_started()
    waiting = batcher.submit(held("waiting", deadline=soon + 0.05))
    patient = batcher.submit(held("patient", deadline=soon + 600))
    for late in (running, waiting):
        with pytest.raises(DeadlinePassed):
            await late
    assert batcher.snapshot().waiting_items == 1
    runner.let_go.set()
    assert (await patient).result == "patient"
    assert runner.batches == [["running"], ["patient"]]
    assert batcher.snapshot().expired == 2
    await batcher.drain()


async def test_work_that_comes_too_late_is_refused(runner: Runner) -> None:
    batcher = Batcher(runner)
    with pytest.raises(DeadlinePassed):
        batcher.submit(Work("a", None, 10, time.monotonic() - 1))
    assert batcher.snapshot().held_items == 0
    await batcher.drain()


async def test_an_item_that_fails_fails_alone(runner: Runner) -> None:
    batcher = Batcher(runner)
    futures = [batcher.submit(small(payload)) for payload in (0, ValueError("mine"), 2, StopIteration())]
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert [result.result for result in results if isinstance(result, Ran)] == [0, 2]
    assert str(results[1]) == "mine"
    assert str(results[3]) == "the item raised StopIteration"
    assert batcher.snapshot().failed == 2
    await batcher.drain()


@pytest.mark.parametrize("nbytes", [10, LARGE])
async def test_a_batch_that_fails_is_everybodys_outcome(nbytes: int) -> None:
    def run(_: str, payloads: list[Any]) -> list[Answer]:
        raise OSError(f"{len(payloads)} items")

    batcher = Batcher(run, inline_bytes=100)
    futures = [batcher.submit(Work("a", None, nbytes)) for _ in range(3)]
    for result in await asyncio.gather(*futures, return_exceptions=True):
        assert repr(result) == "OSError('3 items')"
    await batcher.drain()


async def test_a_thread_that_is_told_to_exit_still_settles_its_batch() -> None:
    def run(_: str, payloads: list[Any]) -> list[Answer]:
        raise SystemExit(3)

    batcher = Batcher(run)
    with pytest.raises(RuntimeError, match=r"ended with SystemExit\(3\)"):
        await batcher.submit(Work("a", None, LARGE))
    await batcher.drain()


async def test_draining_refuses_what_is_new_and_answers_what_was_accepted(runner: Runner) -> None:
    batcher = Batcher(runner, threads=1)
    accepted = [batcher.submit(held(number)) for number in range(3)]
    with batcher.reserve(10) as place:
        drain = asyncio.ensure_future(batcher.drain())
        await runner.has_started()
        with pytest.raises(Draining):
            batcher.submit(small("new"))
        with pytest.raises(Draining):
            batcher.reserve(10)
        runner.let_go.set()
        assert [(await one).result for one in accepted] == [0, 1, 2]
        assert not drain.done()
        assert (await batcher.submit(small("prepared meanwhile"), place)).result == "prepared meanwhile"
        assert not drain.done()
    await drain


async def test_a_place_holds_room_until_both_its_owner_and_the_batch_are_done(runner: Runner) -> None:
    batcher = Batcher(runner, threads=1)
    with batcher.reserve(LARGE) as place:
        future = batcher.submit(held("mine"), place)
        await runner.has_started()
    assert batcher.snapshot().held_bytes == LARGE
    runner.let_go.set()
    await future
    assert batcher.snapshot().held_bytes == 0
    await batcher.drain()


def test_a_batcher_can_be_made_before_its_loop_runs(runner: Runner) -> None:
    batcher = Batcher(runner)

    async def ask() -> Any:
        result = (await batcher.submit(small("x"))).result
        await batcher.drain()
        return result

    assert asyncio.run(ask()) == "x"
