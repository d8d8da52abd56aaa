"""The load generator of `poolservice bench`: makes calls for a fixed time and records their statistics.

In a closed loop, a slow server gets fewer calls, so its waiting times are measured less often than callers would meet
them (coordinated omission). In an open loop, calls are due on a schedule that does not depend on responses, and a
latency counts from the time at which the call was due.
"""

import asyncio
import itertools
import random
import threading
import time
from collections.abc import Awaitable, Callable, Iterator

from poolservice_client import Execution, Overloaded, PoolError
from poolservice_client._cli.bench_measurement import ClosedLoop, Measurement, OpenLoop

# The pause after an error that does not say when to retry, so that errors do not become a busy loop.
_ERROR_PAUSE_SECONDS = 0.1

#: Makes one call and returns where and how long the server computed it.
Call = Callable[[], Awaitable[Execution]]


async def generate_load(call: Call, measurement: Measurement, *, seconds: float) -> None:
    """Make calls under `measurement.load` for `seconds`, and wait for those that are still in flight then.

    If this coroutine is cancelled, `measurement` has the calls that were complete.
    """
    started, cpu_started = time.perf_counter(), time.process_time()
    try:
        if isinstance(measurement.load, ClosedLoop):
            await _closed_loop(call, measurement, measurement.load, started + seconds)
        else:
            await _OpenLoopRun(call, measurement, measurement.load, started, seconds).run()
    finally:
        measurement.seconds = time.perf_counter() - started
        measurement.busy_cores = (time.process_time() - cpu_started) / measurement.seconds


async def _closed_loop(call: Call, measurement: Measurement, load: ClosedLoop, stop: float) -> None:
    async def caller() -> None:
        while (call_started := time.perf_counter()) < stop:
            try:
                execution = await call()
            except PoolError as error:
                measurement.record_error(error)
                pause = error.retry_after if isinstance(error, Overloaded) else _ERROR_PAUSE_SECONDS
                await asyncio.sleep(max(min(pause, stop - time.perf_counter()), 0.0))
            else:
                measurement.record_success((time.perf_counter() - call_started) * 1e3, execution)

    async with asyncio.TaskGroup() as callers:
        for _ in range(load.concurrency):
            callers.create_task(caller())


class _OpenLoopRun:
    """One run of an open loop."""

    def __init__(self, call: Call, measurement: Measurement, load: OpenLoop, started: float, seconds: float) -> None:
        self._call, self._measurement, self._load = call, measurement, load
        self._started, self._seconds = started, seconds
        self._outstanding = 0
        self._calls = asyncio.TaskGroup()
        self._loop = asyncio.get_running_loop()
        self._all_started, self._stopping = asyncio.Event(), threading.Event()

    async def run(self) -> None:
        """Start the calls that are due within the run, and wait for all of them."""
        async with self._calls:
            # A thread, because asyncio's timers have a resolution of a millisecond, which many calls are shorter than.
            thread = threading.Thread(target=self._follow_schedule, name="bench-schedule", daemon=True)
            thread.start()
            try:
                await self._all_started.wait()
            finally:
                self._stopping.set()
                thread.join()

    def _follow_schedule(self) -> None:
        for due in itertools.takewhile(lambda due: due < self._seconds, _schedule(self._load)):
            if self._stopped_before(due):
                return
            self._loop.call_soon_threadsafe(self._start, self._started + due)
        if not self._stopped_before(self._seconds):
            self._loop.call_soon_threadsafe(self._all_started.set)

    def _stopped_before(self, seconds: float) -> bool:
        """Wait until `seconds` after the start of the run, and return False; return True if the run ended before."""
        return self._stopping.wait(max(self._started + seconds - time.perf_counter(), 0.0))

    def _start(self, due: float) -> None:
        if self._stopping.is_set():
            return
        if self._outstanding >= self._load.max_outstanding:
            self._measurement.not_started += 1
        else:
            self._outstanding += 1
            self._calls.create_task(self._make_call(due))

    async def _make_call(self, due: float) -> None:
        call_started = time.perf_counter()
        try:
            execution = await self._call()
        except PoolError as error:
            self._measurement.record_error(error)
        else:
            self._measurement.record_success((time.perf_counter() - due) * 1e3, execution)
            self._measurement.start_delays.append((call_started - due) * 1e3)
        finally:
            self._outstanding -= 1


def _schedule(load: OpenLoop) -> Iterator[float]:
    """Yield the seconds, from the start of the run, at which calls are due; the same ones in every run."""
    numbers = random.Random(0)  # noqa: S311 - not for cryptography
    due = 0.0
    while True:
        due += 1 / load.rate if load.arrivals == "constant" else numbers.expovariate(load.rate)
        yield due
