"""One run of `poolservice bench`: the measurements in their order, until the end or Ctrl-C."""

import asyncio
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field

from poolservice_client import AsyncPoolClient, Overloaded, ServerInfo
from poolservice_client._cli import bench_knee
from poolservice_client._cli.bench_measurement import ClosedLoop, Load, Measurement, OpenLoop
from poolservice_client._cli.bench_workload import Workload
from poolservice_client._cli.load_generator import Call, generate_load


@dataclass
class Run:
    """The measurements of one run, which grow while it goes on.

    Attributes:
        loads: the loads to measure; None for a sweep.
        open_loop: makes the open loop of a rate, for a sweep.
        duration: the seconds of each measurement.
        warm_up: the seconds before each of them that are not measured.
        info: the server's info; None until the server has responded.
        rows: the measurements so far; the last one may be incomplete.
        capacity: the closed loop that a sweep begins with.
        completed: whether everything was measured.
    """

    loads: Sequence[Load] | None
    open_loop: Callable[[float], OpenLoop]
    duration: float
    warm_up: float
    rows: list[Measurement] = field(default_factory=list)
    capacity: Measurement | None = None
    completed: bool = False

    async def measure(self, client: AsyncPoolClient, workload: Workload) -> ServerInfo:
        """Measure everything; return the server's info. Ctrl-C ends the run and keeps what was measured."""
        call = workload.call(client)
        async with client:
            info = await client.server_info()
            # A request that always fails is reported once, not counted a thousand times. A busy server may refuse it.
            with suppress(Overloaded):
                await call()
            try:
                if self.loads is None:
                    self.capacity = Measurement(ClosedLoop(bench_knee.CAPACITY_CONCURRENCY))
                    await self._measure(call, self.capacity)
                for load in self.loads or self._sweep():
                    self.rows.append(Measurement(load))
                    await self._measure(call, self.rows[-1])
            except asyncio.CancelledError:
                # asyncio.run cancels this task on the first Ctrl-C; the complete measurements are still reported.
                return info
        self.completed = True
        return info

    def _sweep(self) -> Iterable[OpenLoop]:
        capacity = self.capacity.rate if self.capacity else 0.0
        # If every call of the closed loop failed, there is nothing to sweep; its errors are reported.
        return map(self.open_loop, bench_knee.sweep_rates(capacity) if capacity else ())

    async def _measure(self, call: Call, measurement: Measurement) -> None:
        with _status(f"{measurement.load} for {self.duration:g} s"):
            warm_up = Measurement(measurement.load)
            for one, seconds in ((warm_up, self.warm_up), (measurement, self.duration)):
                await generate_load(call, one, seconds=seconds)


def _status(text: str) -> AbstractContextManager[object]:
    """Show `text` on stderr while the block runs, if stderr is a terminal."""
    if not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status(text)
