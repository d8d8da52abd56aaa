"""How items end: their callers leave, their deadlines pass, or they fail, and nobody else notices."""

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from poolservice_server.batcher import Batcher, Completed, DeadlinePassed, Request

if TYPE_CHECKING:
    from tests.unit.batcher.conftest import MakeWork, Runner


async def test_a_caller_that_leaves_does_not_shift_the_answers_of_others(runner: "Runner", held: "MakeWork") -> None:
    batcher = Batcher(runner, threads=1)

    async def ask(number: int) -> Any:
        return (await batcher.submit(held(number))).result

    tasks = [asyncio.ensure_future(ask(number)) for number in range(5)]
    await runner.has_started()
    tasks[1].cancel()
    tasks[3].cancel()
    runner.let_go.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [result for result in results if not isinstance(result, BaseException)] == [0, 2, 4]
    assert [task.cancelled() for task in tasks] == [False, True, False, True, False]
    assert batcher.snapshot().cancelled == 2
    await batcher.drain()


async def test_a_deadline_settles_whoever_waits_or_runs(runner: "Runner", held: "MakeWork") -> None:
    batcher = Batcher(runner, threads=1)
    # Far enough away for a busy machine to start the first one before.
    soon = time.monotonic() + 0.3
    running = batcher.submit(held("running", deadline=soon))
    await runner.has_started()
    waiting = batcher.submit(held("waiting", deadline=soon + 0.1))
    patient = batcher.submit(held("patient", deadline=soon + 600))
    for late in (running, waiting):
        with pytest.raises(DeadlinePassed):
            await late
    assert batcher.snapshot().queued_requests == 1
    runner.let_go.set()
    assert (await patient).result == "patient"
    assert runner.batches == [["running"], ["patient"]]
    assert batcher.snapshot().expired == 2
    await batcher.drain()


async def test_work_that_comes_too_late_is_refused(runner: "Runner") -> None:
    batcher = Batcher(runner)
    with pytest.raises(DeadlinePassed):
        batcher.submit(Request("a", None, 10, time.monotonic() - 1))
    assert batcher.snapshot().admitted_requests == 0
    await batcher.drain()


async def test_an_item_that_fails_fails_alone(runner: "Runner", small: "MakeWork") -> None:
    batcher = Batcher(runner)
    futures = [batcher.submit(small(payload)) for payload in (0, ValueError("mine"), 2, StopIteration())]
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert [result.result for result in results if isinstance(result, Completed)] == [0, 2]
    assert str(results[1]) == "mine"
    assert str(results[3]) == "the item raised StopIteration"
    assert batcher.snapshot().failed == 2
    await batcher.drain()


@pytest.mark.parametrize("nbytes", [10, 1000], ids=["on the loop", "on a thread"])
async def test_a_batch_that_fails_is_everybodys_outcome(nbytes: int) -> None:
    def run(_: str, payloads: list[Any]) -> list[Completed]:
        raise OSError(f"{len(payloads)} items")

    batcher = Batcher(run, inline_bytes=100)
    futures = [batcher.submit(Request("a", None, nbytes)) for _ in range(3)]
    for result in await asyncio.gather(*futures, return_exceptions=True):
        assert repr(result) == "OSError('3 items')"
    assert batcher.snapshot().inline_batches == (nbytes <= 100)
    await batcher.drain()


async def test_a_thread_that_is_told_to_exit_still_settles_its_batch() -> None:
    def run(_: str, payloads: list[Any]) -> list[Completed]:
        raise SystemExit(3)

    batcher = Batcher(run)
    with pytest.raises(RuntimeError, match=r"ended with SystemExit\(3\)"):
        await batcher.submit(Request("a", None, 10))
    await batcher.drain()
