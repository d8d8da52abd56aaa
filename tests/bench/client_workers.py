"""What one client of the SDK gets out of two workers, against one: `python tests/bench/client_workers.py`.

The client shares the machine's cores with the server, so its own cost is taken out: a worker that has a core of its
own carries as many calls a second as its CPU time a call allows, and the busiest worker bounds what all carry. Two
workers that share the calls evenly carry twice as much as one; were both of the client's connections at one worker,
they would carry no more.
"""

import asyncio
import statistics
import time
from contextlib import ExitStack
from typing import Annotated, NamedTuple

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

import children
from children import Server
from load import load_average, rotated
from poolservice_client import AsyncPoolClient, MaxPool2d

LEAST_GAIN = 1.6
WORKERS = (1, 2)

_CONCURRENCY = 16
_PATIENCE_SECONDS = 60.0

console = Console()


class Carried(NamedTuple):
    """What was measured of one server.

    Attributes:
        rate: calls a second, with the client on the same cores.
        busiest_us: CPU time a call, over all calls, of the worker that had the most.
        share: the part of the workers' CPU time that it had.
    """

    rate: float
    busiest_us: float
    share: float

    @property
    def alone(self) -> float:
        """Calls a second that the workers carry with a core each."""
        return 1e6 / self.busiest_us


def command(
    seconds: Annotated[float, typer.Option(help="Seconds of each measurement.")] = 2.0,
    rounds: Annotated[int, typer.Option(help="Rounds over both servers; medians are told.")] = 5,
) -> None:
    """Measure J1 (float32 3x224x224, max 2x2) with one worker and with two, each from a single client."""
    children.end_on_sigterm()
    with ExitStack() as stack:
        servers = {
            workers: stack.enter_context(children.running(*children.POOLSERVICE, "--workers", str(workers)))
            for workers in WORKERS
        }
        measured = asyncio.run(_run(servers, seconds, rounds))
    table = Table(title=f"J1 from one client, {_CONCURRENCY} calls at a time")
    for column in ("workers", "calls/s", "busiest worker's CPU µs a call", "its share", "without the client"):
        table.add_column(column, justify="right")
    for workers, cells in measured.items():
        cell = Carried(*map(statistics.median, zip(*cells, strict=True)))
        table.add_row(
            str(workers), f"{cell.rate:,.0f}", f"{cell.busiest_us:.0f}", f"{cell.share:.2f}", f"{cell.alone:,.0f}"
        )
    console.print(table)
    gain = statistics.median(two.alone / one.alone for one, two in zip(measured[1], measured[2], strict=True))
    met = gain >= LEAST_GAIN
    verdict = "[green]met[/green]" if met else "[red]not met[/red]"
    console.print(f"two workers over one, without the client: {gain:.2f}, target {LEAST_GAIN} {verdict}")
    console.print(f"load of the machine: {load_average():.1f}")
    raise typer.Exit(int(not met))


async def _run(servers: dict[int, Server], seconds: float, rounds: int) -> dict[int, list[Carried]]:
    measured: dict[int, list[Carried]] = {workers: [] for workers in WORKERS}
    for number in range(rounds):
        for workers in rotated(WORKERS, number):
            # A client of its own each time: chance decides anew which worker its connections reach first.
            async with AsyncPoolClient(servers[workers].address, coalesce=False) as client:
                measured[workers].append(await _measure(client, servers[workers], workers, seconds))
    return measured


async def _measure(client: AsyncPoolClient, server: Server, workers: int, seconds: float) -> Carried:
    x = np.random.default_rng(0).random((3, 224, 224), np.float32)
    expected = x.reshape(3, 112, 2, 112, 2).max((2, 4))
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while client.stats().connections < workers:
            np.testing.assert_array_equal(await client.pool(x, MaxPool2d(2)), expected)
    before = server.cpu_seconds()
    calls = 0
    started = time.perf_counter()

    async def keep_calling() -> None:
        nonlocal calls
        while time.perf_counter() - started < seconds:
            await client.pool(x, MaxPool2d(2))
            calls += 1

    async with asyncio.TaskGroup() as callers:
        for _ in range(_CONCURRENCY):
            callers.create_task(keep_calling())
    elapsed = time.perf_counter() - started
    used = [now - before.get(process, 0.0) for process, now in server.cpu_seconds().items()]
    return Carried(calls / elapsed, max(used) / calls * 1e6, max(used) / sum(used))


if __name__ == "__main__":
    typer.run(command)
