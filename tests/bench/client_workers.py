"""The throughput of two workers compared with one, for a single client: `python tests/bench/client_workers.py`.

The client shares the machine's cores with the server, so the client's CPU time is excluded. A worker with a core of its
own handles as many calls per second as its CPU time per call allows, and the busiest worker limits the throughput of
all. Two workers that share the calls evenly have twice the throughput of one. If both connections of the client reached
the same worker, they would have no more than one.
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

MIN_GAIN = 1.6
WORKERS = (1, 2)

_CONCURRENCY = 16
_MAX_DISCOVERY_SECONDS = 60.0

console = Console()


class Measured(NamedTuple):
    """One measurement of a server.

    Attributes:
        rate: calls per second, with the client on the same cores.
        busiest_us: CPU microseconds of the busiest worker, per call of all workers.
        share: its share of the CPU time of all workers.
    """

    rate: float
    busiest_us: float
    share: float

    @property
    def rate_without_client(self) -> float:
        """Calls per second that the workers can handle with a core each."""
        return 1e6 / self.busiest_us


def command(
    seconds: Annotated[float, typer.Option(help="Seconds of each measurement.")] = 2.0,
    rounds: Annotated[int, typer.Option(help="Rounds over both servers; medians are reported.")] = 5,
) -> None:
    """Measure J1 (float32 3x224x224, max 2x2) with one worker and with two, each from a single client."""
    children.end_on_sigterm()
    with ExitStack() as stack:
        servers = {
            workers: stack.enter_context(children.running(*children.POOLSERVICE, "--workers", str(workers)))
            for workers in WORKERS
        }
        measured = asyncio.run(_run(servers, seconds, rounds))
    table = Table(title=f"J1 from one client, {_CONCURRENCY} concurrent calls")
    for column in ("workers", "calls/s", "busiest worker's CPU µs per call", "its share", "without the client"):
        table.add_column(column, justify="right")
    for workers, cells in measured.items():
        cell = Measured(*map(statistics.median, zip(*cells, strict=True)))
        table.add_row(
            str(workers),
            f"{cell.rate:,.0f}",
            f"{cell.busiest_us:.0f}",
            f"{cell.share:.2f}",
            f"{cell.rate_without_client:,.0f}",
        )
    console.print(table)
    gain = statistics.median(
        two.rate_without_client / one.rate_without_client for one, two in zip(measured[1], measured[2], strict=True)
    )
    met = gain >= MIN_GAIN
    verdict = "[green]met[/green]" if met else "[red]not met[/red]"
    console.print(f"gain of two workers over one, without the client: {gain:.2f}, target {MIN_GAIN} {verdict}")
    console.print(f"load average of the machine: {load_average():.1f}")
    raise typer.Exit(int(not met))


async def _run(servers: dict[int, Server], seconds: float, rounds: int) -> dict[int, list[Measured]]:
    measured: dict[int, list[Measured]] = {workers: [] for workers in WORKERS}
    for number in range(rounds):
        for workers in rotated(WORKERS, number):
            # A new client each time, because the worker that a connection reaches first is random.
            async with AsyncPoolClient(servers[workers].address, coalesce=False) as client:
                measured[workers].append(await _measure(client, servers[workers], workers, seconds))
    return measured


async def _measure(client: AsyncPoolClient, server: Server, workers: int, seconds: float) -> Measured:
    x = np.random.default_rng(0).random((3, 224, 224), np.float32)
    expected = x.reshape(3, 112, 2, 112, 2).max((2, 4))
    async with asyncio.timeout(_MAX_DISCOVERY_SECONDS):
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
    return Measured(calls / elapsed, max(used) / calls * 1e6, max(used) / sum(used))


if __name__ == "__main__":
    typer.run(command)
