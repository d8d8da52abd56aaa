"""`make bench-workers`: what two workers carry of J1, against one.

The client shares the machine's cores with them, so calls a second say as much of it as of the server. What the
server could carry without it follows from its CPU time a call: a worker with a core of its own carries 1 / that, and
the gain of a second worker with a second core is told by it. A single worker that is given both cores uses some of
the second, for gRPC's threads and its own; it is bound by its event loop's thread, which has no more than one.
"""

import asyncio
import json
import statistics
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.console import Console
from rich.table import Table

import children
from children import Server
from jobs import Job, make_jobs
from load import calls_to, closed_loop, load_average, rotated

LEAST_GAIN = 1.6
WORKERS = (1, 2)

# One connection reaches one worker, and which one is up to the kernel: of so many, some reach either.
_CHANNELS = 8
_CONCURRENCY = 16

COLUMNS = (
    "workers",
    "calls/s",
    "server CPU µs",
    "of it event loops",
    "busier worker's share",
    "without the client, on a core each",
    "on two cores",
)

console = Console()


class Carried(NamedTuple):
    """What was measured of one server.

    Attributes:
        rate: calls a second, with the client on the same cores.
        server_us: CPU time a call, of all threads.
        loop_us: CPU time a call of the busiest thread of each worker, together.
        share: the part of the calls' CPU time that the busier worker had.
    """

    rate: float
    server_us: float
    loop_us: float
    share: float

    def on_a_core_each(self, workers: int) -> float:
        """Calls a second that as many cores as workers carry."""
        return workers / self.server_us * 1e6

    def on_two_cores(self, workers: int) -> float:
        """Calls a second that two cores carry."""
        return min(2 / self.server_us, workers / self.loop_us) * 1e6


def command(
    seconds: Annotated[float, typer.Option(help="Seconds of each measurement.")] = 2.0,
    rounds: Annotated[int, typer.Option(help="Rounds over both servers; medians are told.")] = 5,
    out: Annotated[Path | None, typer.Option("--json", help="Where the results go as JSON.")] = None,
) -> None:
    """Measure J1 with one worker and with two."""
    children.end_on_sigterm()
    job = make_jobs()[0]
    with ExitStack() as stack:
        servers = {
            workers: stack.enter_context(children.running(*children.POOLSERVICE, "--workers", str(workers)))
            for workers in WORKERS
        }
        measured = asyncio.run(_run(job, servers, seconds, rounds))
    gain = statistics.median(
        two.on_a_core_each(2) / one.on_a_core_each(1) for one, two in zip(measured[1], measured[2], strict=True)
    )
    table = Table(title=f"J1, {_CONCURRENCY} calls at a time over {_CHANNELS} connections")
    for column in (
        "workers",
        "calls/s",
        "server CPU µs",
        "of it event loops",
        "busier worker's share",
        "calls/s alone",
    ):
        table.add_column(column, justify="right")
    for workers, cells in measured.items():
        cell = Carried(*map(statistics.median, zip(*cells, strict=True)))
        table.add_row(
            str(workers),
            f"{cell.rate:,.0f}",
            f"{cell.server_us:.0f}",
            f"{cell.loop_us:.0f}",
            f"{cell.share:.2f}",
            f"{cell.on_a_core_each(workers):,.0f}",
            f"{cell.on_two_cores(workers):,.0f}",
        )
    console.print(table)
    met = gain >= LEAST_GAIN
    verdict = "[green]met[/green]" if met else "[red]not met[/red]"
    console.print(f"two workers over one, on a core each: {gain:.2f}, target {LEAST_GAIN} {verdict}")
    console.print(f"load of the machine: {load_average():.1f}")
    if out is not None:
        rounds_of = {workers: [cell._asdict() for cell in cells] for workers, cells in measured.items()}
        out.write_text(json.dumps({"gain": gain, "workers": rounds_of}, indent=2))
    raise typer.Exit(int(not met))


async def _run(job: Job, servers: dict[int, Server], seconds: float, rounds: int) -> dict[int, list[Carried]]:
    measured: dict[int, list[Carried]] = {workers: [] for workers in WORKERS}
    for number in range(rounds):
        for workers in rotated(WORKERS, number):
            measured[workers].append(await _measure(job, servers[workers], seconds))
    return measured


async def _measure(job: Job, server: Server, seconds: float) -> Carried:
    async with calls_to(server.address, channels=_CHANNELS) as calls:
        job.check(await calls[0](job.request))
        before, threads_before = server.cpu_seconds(), server.thread_seconds()
        cell = await closed_loop(server, calls, job.request, concurrency=_CONCURRENCY, seconds=seconds)
        used = {pid: now - before.get(pid, 0.0) for pid, now in server.cpu_seconds().items()}
        busiest = [
            max(now - threads_before.get(process, {}).get(thread, 0.0) for thread, now in threads.items())
            for process, threads in server.thread_seconds().items()
        ]
    whole = sum(used.values())
    return Carried(cell.rate, cell.server_us, cell.server_us * sum(busiest) / whole, max(used.values()) / whole)


if __name__ == "__main__":
    typer.run(command)
