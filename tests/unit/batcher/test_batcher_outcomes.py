"""Outcomes: callers leave, deadlines pass and requests fail, without any effect on the others of the batch."""

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from poolservice_server.batcher import Batcher, Completed, DeadlinePassed, Request
from poolservice_server.stop import Stop

if TYPE_CHECKING:
    from tests.unit.batcher.conftest import MakeRequest, Runner


async def test_a_caller_that_leaves_does_not_shift_the_results_of_others(
    runner: "Runner", blocked: "MakeRequest"
) -> None:
    batcher = Batcher(runner, threads=1)

    async def submit(number: int) -> Any:
        return (await batcher.submit(blocked(number))).result

    tasks = [asyncio.ensure_future(submit(number)) for number in range(5)]
    await runner.wait_for_start()
    tasks[1].cancel()
    tasks[3].cancel()
    runner.release.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [result for result in results if not isinstance(result, BaseException)] == [0, 2, 4]
    assert [task.cancelled() for task in tasks] == [False, True, False, True, False]
    assert batcher.snapshot().cancelled == 2
    await batcher.drain()


async def test_a_deadline_settles_requests_that_wait_or_run(
    runner: "Runner", blocked: "MakeRequest", monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    now = loop.time()
    monkeypatch.setattr(loop, "time", lambda: now)
    batcher = Batcher(runner, threads=1, clock=lambda: now)
    running = batcher.submit(blocked("running", deadline=now + 0.3))
    await runner.wait_for_start()
    waiting = batcher.submit(blocked("waiting", deadline=now + 0.4))
    patient = batcher.submit(blocked("patient", deadline=now + 600))
    for late, seconds in ((running, 0.3), (waiting, 0.1)):
        assert not late.done()
        now += seconds
        with pytest.raises(DeadlinePassed):
            await late
    assert batcher.snapshot().queue_entries == 1
    runner.release.set()
    assert (await patient).result == "patient"
    assert runner.batches == [["running"], ["patient"]]
    assert batcher.snapshot().expired == 2
    await batcher.drain()


async def test_a_request_whose_deadline_has_passed_is_refused(runner: "Runner") -> None:
    batcher = Batcher(runner)
    with pytest.raises(DeadlinePassed):
        batcher.submit(Request("a", None, 10, time.monotonic() - 1))
    assert batcher.snapshot().admitted_requests == 0
    await batcher.drain()


async def test_a_request_that_fails_does_not_fail_its_batch_mates(runner: "Runner", small: "MakeRequest") -> None:
    batcher = Batcher(runner)
    futures = [batcher.submit(small(payload)) for payload in (0, ValueError("of one"), 2, StopIteration())]
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert [result.result for result in results if isinstance(result, Completed)] == [0, 2]
    assert str(results[1]) == "of one"
    assert str(results[3]) == "the request raised StopIteration"
    assert batcher.snapshot().failed == 2
    await batcher.drain()


@pytest.mark.parametrize("nbytes", [10, 1000], ids=["inline", "on a thread"])
async def test_an_exception_of_the_runner_is_the_outcome_of_the_whole_batch(nbytes: int) -> None:
    inline: list[bool] = []
    loop_thread = threading.current_thread()

    def run(_: str, payloads: list[Any], _stop: Stop) -> list[Completed]:
        inline.append(threading.current_thread() is loop_thread)
        raise OSError(f"{len(payloads)} requests")

    batcher = Batcher(run, inline_bytes=100)
    futures = [batcher.submit(Request("a", None, nbytes)) for _ in range(3)]
    for result in await asyncio.gather(*futures, return_exceptions=True):
        assert repr(result) == "OSError('3 requests')"
    assert inline == [nbytes <= 100]
    await batcher.drain()


async def test_a_runner_that_returns_too_few_outcomes_fails_the_batch() -> None:
    batcher = Batcher(lambda _key, _payloads, _stop: [])
    with pytest.raises(RuntimeError, match="returned 0 outcomes for a batch of 1"):
        await batcher.submit(Request("a", None, 10))
    await batcher.drain()


async def test_a_runner_that_exits_its_thread_still_settles_the_batch() -> None:
    def run(_: str, payloads: list[Any], _stop: Stop) -> list[Completed]:
        raise SystemExit(3)

    batcher = Batcher(run)
    with pytest.raises(RuntimeError, match=r"ended with SystemExit\(3\)"):
        await batcher.submit(Request("a", None, 10))
    await batcher.drain()
