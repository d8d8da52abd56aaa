"""`make bench-peers`: compare poolservice and its SDK with other services that do the same jobs.

tuned       the echo server with poolservice's server settings, which computes nothing; a gRPC client of raw bytes
plain       fifty lines of grpcio, generated classes and torch; a gRPC client of raw bytes
mosec       a mosec server with dynamic batching; an HTTP client of raw bytes with persistent connections
raw         poolservice-server; a gRPC client of raw bytes
SDK         poolservice-server; the SDK without coalescing: asyncio, or threads
coalesced   the same with coalescing

All clients run in one process, on the same cores as the server. Each ratio is taken within one round, in which all of
them run under the same conditions. The tables show the median of these ratios.
"""

import asyncio
import importlib.util
import json
import statistics
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import children
from contestants import (
    COALESCED,
    COALESCED_THREADS,
    TUNED,
    Contestant,
    PeerJob,
    contestants_of,
    make_peer_jobs,
)
from load import Measurement, load_average, rotated
from peer_targets import TARGETS, Target

CONCURRENCIES = (1, 8, 32)

#: One measurement per round, by job, concurrency and contestant.
Measurements = dict[tuple[str, int, str], list[Measurement]]

console = Console()


class Arguments(NamedTuple):
    """What is measured: see `command`."""

    levels: list[int]
    seconds: float
    rounds: int
    mosec_batch: int


def command(
    job: Annotated[list[str] | None, typer.Option(help="J1 to J4, 128x7x7. May be repeated. Default: all.")] = None,
    concurrency: Annotated[
        list[int] | None, typer.Option(help="Concurrent calls. May be repeated. Default: 1, 8 and 32.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="Duration of each measurement in seconds.")] = 0.4,
    rounds: Annotated[int, typer.Option(help="Rounds over all contestants.")] = 5,
    mosec_batch: Annotated[
        int, typer.Option(min=2, help="The most requests of one of mosec's batches. It was fastest with 4, of 2 to 32.")
    ] = 4,
    quick: Annotated[
        bool, typer.Option("--quick", help="Two rounds of 0.2 seconds: a smoke test, not a benchmark.")
    ] = False,
    before: Annotated[
        Path | None,
        typer.Option(help="Compare the SDK with an earlier --json file of this command, from this machine."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--json", help="Write the results to this file as JSON.")] = None,
) -> None:
    """Measure throughput and latency of poolservice, of its SDK and of other services."""
    if importlib.util.find_spec("mosec") is None:
        raise typer.BadParameter("mosec is not installed; in a clone of the repository: pip install '.[peers]'")
    children.end_on_sigterm()
    known = make_peer_jobs()
    names = job or [one.name for one in known]
    if unknown := set(names) - {one.name for one in known}:
        raise typer.BadParameter(f"no such job: {', '.join(sorted(unknown))}; the jobs are J1 to J4 and 128x7x7")
    selected = [one for one in known if one.name in names]
    levels = concurrency or list(CONCURRENCIES)
    if quick:
        seconds, rounds = 0.2, 2
    load_before = load_average()
    measurements: Measurements = defaultdict(list)
    arguments = Arguments(levels, seconds, rounds, mosec_batch)
    with Progress(console=console, transient=True) as progress:
        total = rounds * len(levels) * sum(len(contestants_of(one)) for one in selected)
        task = progress.add_task("measuring", total=total)
        for one in selected:
            asyncio.run(_measure(one, arguments, measurements, lambda: progress.advance(task)))
    for one in selected:
        console.print(_table(one, levels, measurements))
    missed = _print_targets(measurements)
    if before is not None:
        _print_comparison(measurements, _measurements_of(json.loads(before.read_text())))
    console.print(f"load average of the machine: {load_before:.1f} before, {load_average():.1f} after")
    if out is not None:
        out.write_text(json.dumps(_as_json(measurements, seconds, load_before), indent=2))
    raise typer.Exit(int(missed and not quick))


async def _measure(job: PeerJob, arguments: Arguments, measurements: Measurements, advance: Callable[[], None]) -> None:
    contestants = contestants_of(job)
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(children.running(*command_line))
            for name, command_line in job.server_arguments(arguments.mosec_batch).items()
        }
        await job.check(servers)
        for number in range(arguments.rounds):
            for level in arguments.levels:
                contestant: Contestant
                for contestant in rotated(contestants, number):
                    measured = await contestant.measure(servers[contestant.server], job, level, arguments.seconds)
                    measurements[job.name, level, contestant.name].append(measured)
                    advance()


def _ratios(measurements: Measurements, target: Target) -> tuple[float, float] | None:
    """Return the median ratios of throughput and of p99 latency; None if one of the two was not measured."""
    pairs = list(
        zip(
            measurements.get((target.job, target.concurrency, target.contestant), ()),
            measurements.get((target.job, target.concurrency, target.baseline), ()),
            strict=True,
        )
    )
    if not pairs:
        return None
    return (
        statistics.median(one.rate / other.rate for one, other in pairs),
        statistics.median(one.p99_ms / other.p99_ms for one, other in pairs),
    )


def _table(job: PeerJob, levels: list[int], measurements: Measurements) -> Table:
    table = Table(
        title=f"{job.name}: {job.job.title}, {len(job.body)} bytes in",
        # With this frame, every number fits into 80 columns.
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
    )
    table.add_column("in flight", justify="right")
    table.add_column("contestant", no_wrap=True)
    for column in ("calls/s", "p50 ms", "p99 ms", "server CPU µs", "client CPU µs"):
        table.add_column(column, justify="right")
    contestants = contestants_of(job)
    for level in levels:
        for contestant in contestants:
            rounds = measurements[job.name, level, contestant.name]
            median = Measurement(*map(statistics.median, zip(*rounds, strict=True)))
            table.add_row(
                str(level) if contestant is contestants[0] else "",
                contestant.name,
                f"{median.rate:,.0f}",
                f"{median.p50_ms:.2f}",
                f"{median.p99_ms:.2f}",
                f"{median.server_us:.0f}",
                f"{median.client_us:.0f}",
                end_section=contestant is contestants[-1],
            )
    return table


def _print_targets(measurements: Measurements) -> bool:
    """Print which targets are met. Return True if any was missed."""
    table = Table(
        title="throughput over the baseline's: median over the rounds",
        caption="calls: in flight; p99: the p99 latency over the baseline's",
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
    )
    for column in ("job", "calls", "contestant", "baseline", "target", "ratio", "p99", ""):
        table.add_column(
            column, justify="right" if column in ("calls", "target", "ratio", "p99") else "left", no_wrap=True
        )
    missed = False
    for target in TARGETS:
        ratios = _ratios(measurements, target)
        if ratios is None:
            continue
        met = ratios[0] >= target.ratio
        missed |= not met
        table.add_row(
            target.job,
            str(target.concurrency),
            target.contestant,
            target.baseline,
            f"{target.ratio:.2f}",
            f"{ratios[0]:.2f}",
            f"{ratios[1]:.2f}",
            "[green]met[/green]" if met else "[red]not met[/red]",
        )
    console.print(table)
    return missed


def _print_comparison(measurements: Measurements, before: Measurements) -> None:
    """Print the throughput and the p99 latency of the SDK, each divided by the tuned echo's, over the earlier ones."""
    table = Table(
        title="the SDK over the SDK before",
        caption="The figures of both runs are divided by those of the tuned echo server in the same run.",
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
    )
    for column in ("job", "in flight", "contestant", "calls/s", "p99"):
        table.add_column(column, justify="left" if column in ("job", "contestant") else "right")
    for job, level, contestant in measurements:
        if contestant not in (COALESCED, COALESCED_THREADS) or (job, level, contestant) not in before:
            continue
        against = Target(job, level, contestant, TUNED, 0.0)
        now, then = _ratios(measurements, against), _ratios(before, against)
        if now is not None and then is not None:
            table.add_row(job, str(level), contestant, f"{now[0] / then[0]:.2f}", f"{now[1] / then[1]:.2f}")
    console.print(table)


def _measurements_of(results: dict[str, Any]) -> Measurements:
    return {
        (cell["job"], cell["concurrency"], cell["contestant"]): [Measurement(**one) for one in cell["rounds"]]
        for cell in results["cells"]
    }


def _as_json(measurements: Measurements, seconds: float, load: float) -> dict[str, Any]:
    targets = []
    for target in TARGETS:
        ratios = _ratios(measurements, target)
        if ratios is not None:
            targets.append({**target._asdict(), "measured": ratios[0], "p99": ratios[1]})
    cells = [
        {"job": job, "concurrency": level, "contestant": contestant, "rounds": [one._asdict() for one in rounds]}
        for (job, level, contestant), rounds in measurements.items()
    ]
    return {"seconds": seconds, "load_average": load, "targets": targets, "cells": cells}


if __name__ == "__main__":
    typer.run(command)
