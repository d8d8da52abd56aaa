"""The choice between several runs with one thread each and one run with several threads, by measurement."""

import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
import structlog

from poolservice_server.backbones.engines.engine import Engine

_log = structlog.get_logger(__name__)

# Each alternative is measured in turn, and the best of its rounds counts: another program slows down single rounds.
_ROUNDS = 5
_ROUND_SECONDS = 0.1

# Runs with one thread need no synchronization, which costs several threads 2 to 9 % of the CPU time. Several threads
# must save more than the noise of the measurement.
_MIN_GAIN = 1.1


def faster_engine(
    single: Engine,
    open_wide: Callable[[], Engine],
    sample: np.ndarray,
    tensors: Sequence[str],
    cores: int,
    clock: Callable[[], float] = time.process_time,
) -> Engine:
    """Return the engine that runs more samples per second of CPU time when all cores work, and close the other one.

    CPU time is what limits a server under load, and other programs hardly change it. By wall-clock time, a busy machine
    chose several threads in one of four starts.

    Args:
        single: an engine with one thread per run.
        open_wide: loads the same network with `cores` threads per run.
        sample: a normalized sample, (1, C, H, W).
        tensors: the tensors to compute.
        cores: the number of cores.
        clock: returns the CPU time of the process in seconds.
    """
    wide = open_wide()
    rates = [0.0, 0.0]
    for _ in range(_ROUNDS):
        rates[0] = max(rates[0], _rate(lambda: single.run(sample, tensors), cores, clock))
        rates[1] = max(rates[1], _rate(lambda: wide.run(sample, tensors), 1, clock))
    chosen, other = (wide, single) if rates[1] > _MIN_GAIN * rates[0] else (single, wide)
    other.close()
    _log.debug(
        "chose the threads of a backbone",
        threads=chosen.threads,
        samples_per_cpu_second_with_one_thread=round(rates[0], 1),
        samples_per_cpu_second_with_all=round(rates[1], 1),
    )
    return chosen


def _rate(run: Callable[[], object], callers: int, clock: Callable[[], float]) -> float:
    """Return how often per second of `clock` the call of `run` ends if so many threads call it again and again."""
    counts = [0] * callers
    started = clock()

    def call(number: int) -> None:
        while not counts[number] or clock() - started < _ROUND_SECONDS:
            run()
            counts[number] += 1

    threads = [threading.Thread(target=call, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (clock() - started)
