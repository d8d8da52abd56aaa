"""`make bench`: compare the throughput of poolservice with that of simpler gRPC servers, in interleaved rounds.

echo    an untuned grpc.aio server: raw bytes of the same sizes, nothing computed
tuned   the echo server with poolservice's server settings: multi-accept, its event loop, allocator and socket reading.
        This is the ceiling for any Python gRPC server on this machine.
plain   fifty lines of grpcio, generated classes and torch: what a user would write
ours    poolservice-server on the CPU

Each ratio is taken within one round, in which all servers run under the same conditions. The tables show the median of
these ratios.
"""

import asyncio
import json
import statistics
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import children
from children import Server
from jobs import Job, make_jobs
from load import Measurement, calls_to, closed_loop, load_average, rotated
from targets import CONCURRENCIES, TARGETS

OURS = "ours"
BASELINES = ("echo", "tuned", "plain")

#: One measurement per round, by job, concurrency and server.
Measurements = dict[tuple[str, int, str], list[Measurement]]

console = Console()


def command(
    job: Annotated[list[str] | None, typer.Option(help="J1 to J4. May be repeated. Default: all.")] = None,
    concurrency: Annotated[
        list[int] | None, typer.Option(help="Concurrent calls. May be repeated. Default: 1, 8 and 32.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="Duration of each measurement in seconds.")] = 1.0,
    rounds: Annotated[int, typer.Option(help="Rounds over all servers.")] = 5,
    quick: Annotated[
        bool, typer.Option("--quick", help="Two rounds of 0.4 seconds: a smoke test, not a benchmark.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--json", help="Write the results to this file as JSON.")] = None,
) -> None:
    """Measure throughput, latency, CPU time and memory of poolservice and of the baseline servers."""
    children.end_on_sigterm()
    known = make_jobs()
    names = job or [one.name for one in known]
    if unknown := set(names) - {one.name for one in known}:
        raise typer.BadParameter(f"no such job: {', '.join(sorted(unknown))}; the jobs are J1 to J4")
    selected = [one for one in known if one.name in names]
    levels = concurrency or list(CONCURRENCIES)
    if quick:
        seconds, rounds = 0.4, 2
    load_before = load_average()
    measurements: Measurements = defaultdict(list)
    total = len(selected) * len(levels) * rounds * (len(BASELINES) + 1)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("measuring", total=total)
        for one in selected:
            asyncio.run(_measure(one, levels, seconds, rounds, measurements, lambda: progress.advance(task)))
    for one in selected:
        console.print(_table(one, levels, measurements))
    missed = _print_targets(selected, levels, measurements)
    console.print(f"load average of the machine: {load_before:.1f} before, {load_average():.1f} after")
    if out is not None:
        out.write_text(json.dumps(_as_json(measurements, seconds, load_before), indent=2))
    raise typer.Exit(int(missed and not quick))


async def _measure(
    job: Job,
    levels: list[int],
    seconds: float,
    rounds: int,
    measurements: Measurements,
    advance: Callable[[], None],
) -> None:
    with ExitStack() as stack:
        echo = (*children.ECHO, str(job.response_bytes))
        servers: dict[str, Server] = {
            "echo": stack.enter_context(children.running(*echo)),
            "tuned": stack.enter_context(children.running(*echo, "--tuned")),
            "plain": stack.enter_context(children.running(*children.PLAIN)),
            OURS: stack.enter_context(children.running(*children.POOLSERVICE)),
        }
        await _check(job, servers)
        for number in range(rounds):
            for level in levels:
                for name in rotated(list(servers), number):
                    async with calls_to(servers[name].address) as calls:
                        measurement = await closed_loop(
                            servers[name], calls, job.request, concurrency=level, seconds=seconds
                        )
                    measurements[job.name, level, name].append(measurement)
                    advance()


async def _check(job: Job, servers: dict[str, Server]) -> None:
    """Call each server once and check its response; of an echo server, only the size."""
    for name, server in servers.items():
        async with calls_to(server.address) as (call,):
            response: bytes = await call(job.request)
        if name in ("plain", OURS):
            job.check(response)
        elif len(response) != job.response_bytes:
            raise ValueError(f"{name} returned {len(response)} bytes, not {job.response_bytes}")


def _ratio(measurements: Measurements, job: str, level: int, baseline: str) -> float:
    pairs = zip(measurements[job, level, OURS], measurements[job, level, baseline], strict=True)
    return statistics.median(ours.rate / other.rate for ours, other in pairs)


def _median(rounds: list[Measurement]) -> Measurement:
    return Measurement(*map(statistics.median, zip(*rounds, strict=True)))


def _table(job: Job, levels: list[int], measurements: Measurements) -> Table:
    table = Table(
        title=f"{job.name}: {job.title} ({len(job.request)} bytes in, {job.response_bytes} out)",
        caption="ratio: throughput of ours over that of the server in this row",
        # With this frame, every number fits into 80 columns.
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
    )
    table.add_column("in flight", justify="right")
    table.add_column("server")
    for column in ("calls/s", "p50 ms", "p99 ms", "server CPU µs", "client CPU µs", "peak MB", "ratio"):
        table.add_column(column, justify="right")
    for level in levels:
        for name in (*BASELINES, OURS):
            median = _median(measurements[job.name, level, name])
            ratio = "" if name == OURS else f"{_ratio(measurements, job.name, level, name):.2f}"
            table.add_row(
                str(level) if name == BASELINES[0] else "",
                name,
                f"{median.rate:,.0f}",
                f"{median.p50_ms:.2f}",
                f"{median.p99_ms:.2f}",
                f"{median.server_us:.0f}",
                f"{median.client_us:.0f}",
                f"{median.peak_mb:.0f}",
                ratio,
                end_section=name == OURS,
            )
    return table


def _print_targets(jobs: list[Job], levels: list[int], measurements: Measurements) -> bool:
    """Print which targets are met. Return True if any was missed."""
    table = Table(title="targets: ratio of throughput over the baseline's, median over the rounds")
    for column in ("job", "in flight", "baseline", "target", "measured", ""):
        table.add_column(column, justify="right" if column in ("target", "measured") else "left")
    missed = False
    for (job, level, baseline), target in TARGETS.items():
        if job not in {one.name for one in jobs} or level not in levels:
            continue
        ratio = _ratio(measurements, job, level, baseline)
        met = ratio >= target
        missed |= not met
        verdict = "[green]met[/green]" if met else "[red]not met[/red]"
        table.add_row(job, str(level), baseline, f"{target:.1f}", f"{ratio:.2f}", verdict)
    console.print(table)
    return missed


def _as_json(measurements: Measurements, seconds: float, load: float) -> dict[str, Any]:
    cells = []
    for (job, level, server), rounds in measurements.items():
        cell: dict[str, Any] = {
            "job": job,
            "concurrency": level,
            "server": server,
            "median": _median(rounds)._asdict(),
            "rounds": [one._asdict() for one in rounds],
        }
        if server != OURS:
            cell["ours_over_baseline"] = _ratio(measurements, job, level, server)
            cell["target"] = TARGETS.get((job, level, server))
        cells.append(cell)
    return {"seconds": seconds, "load_average": load, "cells": cells}


if __name__ == "__main__":
    typer.run(command)
