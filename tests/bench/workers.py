"""`make bench-workers`: compare the throughput of two workers with that of one, for job J1.

The client shares the cores with the server, so the measured calls per second depend on both. The throughput of the
server without the client follows from its CPU time: a worker with a core of its own completes 1 / (CPU time per call)
calls per second. The gain is the ratio of this throughput for two workers on two cores to that for one worker on one
core.

A single worker on two cores uses part of the second core for the threads of gRPC and its own threads. It is limited by
the thread of its event loop, which cannot use more than one core.
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

MIN_GAIN = 1.6
WORKERS = (1, 2)

# The kernel assigns each connection to one worker. With this many, each worker has some.
_CHANNELS = 8
_CONCURRENCY = 16

COLUMNS = (
    "workers",
    "calls/s",
    "server CPU µs",
    "event loops' CPU µs",
    "busier worker's share",
    "calls/s without client, one core per worker",
    "calls/s without client, two cores",
)

console = Console()


class Throughput(NamedTuple):
    """The throughput and the CPU time per call of one server.

    Attributes:
        rate: calls per second, with the client on the same cores.
        server_us: CPU time per call of all threads, in microseconds.
        loop_us: CPU time per call of the busiest thread of each worker, summed over the workers, in microseconds.
        share: the fraction of the server's CPU time that the busier worker used.
    """

    rate: float
    server_us: float
    loop_us: float
    share: float

    def with_one_core_per_worker(self, workers: int) -> float:
        """Return the calls per second without the client, on as many cores as there are workers."""
        return workers / self.server_us * 1e6

    def on_two_cores(self, workers: int) -> float:
        """Return the calls per second without the client, on two cores."""
        return min(2 / self.server_us, workers / self.loop_us) * 1e6


def command(
    seconds: Annotated[float, typer.Option(help="Duration of each measurement in seconds.")] = 2.0,
    rounds: Annotated[int, typer.Option(help="Rounds over both servers; the output shows medians.")] = 5,
    out: Annotated[Path | None, typer.Option("--json", help="Write the results to this file as JSON.")] = None,
) -> None:
    """Measure J1 with one worker and with two."""
    children.end_on_sigterm()
    job = make_jobs()[0]
    with ExitStack() as stack:
        servers = {
            workers: stack.enter_context(children.running(*children.POOLSERVICE, "--workers", str(workers)))
            for workers in WORKERS
        }
        measurements = asyncio.run(_run(job, servers, seconds, rounds))
    gain = statistics.median(
        two.with_one_core_per_worker(2) / one.with_one_core_per_worker(1)
        for one, two in zip(measurements[1], measurements[2], strict=True)
    )
    table = Table(title=f"J1, {_CONCURRENCY} concurrent calls over {_CHANNELS} connections")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for workers, one_per_round in measurements.items():
        median = Throughput(*map(statistics.median, zip(*one_per_round, strict=True)))
        table.add_row(
            str(workers),
            f"{median.rate:,.0f}",
            f"{median.server_us:.0f}",
            f"{median.loop_us:.0f}",
            f"{median.share:.2f}",
            f"{median.with_one_core_per_worker(workers):,.0f}",
            f"{median.on_two_cores(workers):,.0f}",
        )
    console.print(table)
    met = gain >= MIN_GAIN
    verdict = "[green]met[/green]" if met else "[red]not met[/red]"
    console.print(
        f"throughput of two workers over one, with one core per worker: {gain:.2f}, target {MIN_GAIN} {verdict}"
    )
    console.print(f"load average of the machine: {load_average():.1f}")
    if out is not None:
        rounds_of = {workers: [one._asdict() for one in per_round] for workers, per_round in measurements.items()}
        out.write_text(json.dumps({"gain": gain, "workers": rounds_of}, indent=2))
    raise typer.Exit(int(not met))


async def _run(job: Job, servers: dict[int, Server], seconds: float, rounds: int) -> dict[int, list[Throughput]]:
    measurements: dict[int, list[Throughput]] = {workers: [] for workers in WORKERS}
    for number in range(rounds):
        for workers in rotated(WORKERS, number):
            measurements[workers].append(await _measure(job, servers[workers], seconds))
    return measurements


async def _measure(job: Job, server: Server, seconds: float) -> Throughput:
    async with calls_to(server.address, channels=_CHANNELS) as calls:
        job.check(await calls[0](job.request))
        before, threads_before = server.cpu_seconds(), server.thread_seconds()
        measured = await closed_loop(server, calls, job.request, concurrency=_CONCURRENCY, seconds=seconds)
        used = {pid: now - before.get(pid, 0.0) for pid, now in server.cpu_seconds().items()}
        busiest = [
            max(now - threads_before.get(process, {}).get(thread, 0.0) for thread, now in threads.items())
            for process, threads in server.thread_seconds().items()
        ]
    total = sum(used.values())
    loop_us = measured.server_us * sum(busiest) / total
    return Throughput(measured.rate, measured.server_us, loop_us, max(used.values()) / total)


if __name__ == "__main__":
    typer.run(command)
