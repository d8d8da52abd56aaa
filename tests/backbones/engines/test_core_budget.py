"""The cores that runs of backbones share."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from poolservice_server.backbones.engines.core_budget import CoreBudget


@pytest.mark.parametrize(("cores", "threads"), [(1, [1]), (2, [1, 1, 2]), (4, [1, 4, 2, 1, 3]), (2, [8, 1])])
def test_runs_never_use_more_threads_than_there_are_cores(cores: int, threads: list[int]) -> None:
    budget, end_one = CoreBudget(cores), threading.Semaphore(0)
    lock = threading.Lock()
    running: list[int] = []
    sums: list[int] = []

    def run(needed: int) -> None:
        with budget.take(needed):
            with lock:
                running.append(min(cores, needed))
                sums.append(sum(running))
            end_one.acquire()
            with lock:
                running.remove(min(cores, needed))

    wanted = threads * 5
    with ThreadPoolExecutor(len(wanted)) as pool:
        futures = [pool.submit(run, needed) for needed in wanted]
        # Each run has its cores or waits for them before the first one ends.
        while len(running) + budget.waiting < len(wanted):
            pass
        for left in reversed(range(len(wanted))):
            end_one.release()
            # The runs that start now are counted before the next one ends.
            while len(running) + budget.waiting != left:
                pass
        for future in futures:
            future.result(30)
    assert max(sums) == cores
    assert not running


def test_a_run_on_all_cores_is_not_overtaken_for_ever() -> None:
    budget = CoreBudget(2)
    order: list[str] = []
    first = budget.take(1)
    first.__enter__()

    def run(name: str, threads: int) -> None:
        with budget.take(threads):
            order.append(name)

    wide = threading.Thread(target=run, args=("wide", 2))
    wide.start()
    while not budget.waiting:
        pass
    narrow = threading.Thread(target=run, args=("narrow", 1))
    narrow.start()
    while budget.waiting < 2:
        pass
    first.__exit__(None, None, None)
    wide.join(30)
    narrow.join(30)
    assert order == ["wide", "narrow"]


def test_all_runs_that_fit_start_when_a_run_on_several_cores_ends() -> None:
    budget, together = CoreBudget(2), threading.Barrier(2, timeout=30)

    def run() -> None:
        with budget.take(1):
            together.wait()

    with ThreadPoolExecutor(2) as pool:
        with budget.take(2):
            futures = [pool.submit(run) for _ in range(2)]
            while budget.waiting < 2:
                pass
        for future in futures:
            future.result(30)


def test_a_run_that_fails_gives_its_cores_back() -> None:
    budget = CoreBudget(1)
    for _ in range(3):
        with pytest.raises(KeyError), budget.take(1):
            raise KeyError
