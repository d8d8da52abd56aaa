"""`make bench`: calls a second through poolservice, beside servers that do less, in interleaved rounds.

echo    grpc.aio as it comes, raw bytes of the same sizes, nothing computed: the ceiling of an untuned server
tuned   the same with several accepts a method, the allocator set, uvloop: the true ceiling
plain   fifty lines of grpcio, generated classes and torch: what a user would write
ours    poolservice-server on the CPU

Ratios are taken within each round, where all servers see the same machine, and their median is told.
"""

import asyncio
import json
import statistics
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import children
from children import Server
from jobs import Job, make_jobs
from load import Measured, calls_to, closed_loop, load_average, rotated
from targets import CONCURRENCIES, TARGETS

OURS = "ours"
RIVALS = ("echo", "tuned", "plain")

#: By job, concurrency and server: one entry a round.
Rounds = dict[tuple[str, int, str], list[Measured]]

console = Console()


def command(
    job: Annotated[list[str] | None, typer.Option(help="J1 to J4; all unless given. May be repeated.")] = None,
    concurrency: Annotated[
        list[int] | None, typer.Option(help="Calls under kernel_for; 1, 8 and 32 unless given.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="Seconds of each measurement.")] = 1.0,
    rounds: Annotated[int, typer.Option(help="Rounds over all servers.")] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="Two rounds of 0.4 seconds: a look, no figure.")] = False,
    out: Annotated[Path | None, typer.Option("--json", help="Where the results go as JSON.")] = None,
) -> None:
    """Measure calls a second, latency, CPU and memory of poolservice and of what stands beside it."""
    children.end_on_sigterm()
    known = make_jobs()
    wanted = job or [one.name for one in known]
    if unknown := set(wanted) - {one.name for one in known}:
        raise typer.BadParameter(f"no such job: {', '.join(sorted(unknown))}; there are J1 to J4")
    chosen = [one for one in known if one.name in wanted]
    levels = concurrency or list(CONCURRENCIES)
    if quick:
        seconds, rounds = 0.4, 2
    load_before = load_average()
    measured: Rounds = defaultdict(list)
    total = len(chosen) * len(levels) * rounds * (len(RIVALS) + 1)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("measuring", total=total)
        for one in chosen:
            asyncio.run(_measure(one, levels, seconds, rounds, measured, lambda: progress.advance(task)))
    for one in chosen:
        console.print(_table(one, levels, measured))
    missed = _print_targets(chosen, levels, measured)
    console.print(f"load of the machine: {load_before:.1f} before, {load_average():.1f} after")
    if out is not None:
        out.write_text(json.dumps(_as_json(measured, seconds, load_before), indent=2))
    raise typer.Exit(int(missed and not quick))


async def _measure(job: Job, levels: list[int], seconds: float, rounds: int, measured: Rounds, advance: Any) -> None:
    with ExitStack() as stack:
        echo = (*children.ECHO, str(job.answer_bytes))
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
                        cell = await closed_loop(servers[name], calls, job.request, concurrency=level, seconds=seconds)
                    measured[job.name, level, name].append(cell)
                    advance()


async def _check(job: Job, servers: dict[str, Server]) -> None:
    """One call to each, whose answer must be right, or of the right size where nothing is computed."""
    for name, server in servers.items():
        async with calls_to(server.address) as (call,):
            answer: bytes = await call(job.request)
        if name in ("plain", OURS):
            job.check(answer)
        elif len(answer) != job.answer_bytes:
            raise ValueError(f"{name} answered {len(answer)} bytes, not {job.answer_bytes}")


def _ratio(measured: Rounds, job: str, level: int, rival: str) -> float:
    pairs = zip(measured[job, level, OURS], measured[job, level, rival], strict=True)
    return statistics.median(ours.rate / theirs.rate for ours, theirs in pairs)


def _median(cells: list[Measured]) -> Measured:
    return Measured(*map(statistics.median, zip(*cells, strict=True)))


def _table(job: Job, levels: list[int], measured: Rounds) -> Table:
    table = Table(title=f"{job.name}: {job.title} ({len(job.request)} bytes in, {job.answer_bytes} out)")
    table.add_column("calls at a time", justify="right")
    table.add_column("server")
    for column in ("calls/s", "p50 ms", "p99 ms", "server CPU µs", "client CPU µs", "peak MB", "ours / it"):
        table.add_column(column, justify="right")
    for level in levels:
        for name in (*RIVALS, OURS):
            cell = _median(measured[job.name, level, name])
            ratio = "" if name == OURS else f"{_ratio(measured, job.name, level, name):.2f}"
            table.add_row(
                str(level) if name == RIVALS[0] else "",
                name,
                f"{cell.rate:,.0f}",
                f"{cell.p50_ms:.2f}",
                f"{cell.p99_ms:.2f}",
                f"{cell.server_us:.0f}",
                f"{cell.client_us:.0f}",
                f"{cell.peak_mb:.0f}",
                ratio,
                end_section=name == OURS,
            )
    return table


def _print_targets(jobs: list[Job], levels: list[int], measured: Rounds) -> bool:
    """Say which targets are met; whether any was missed."""
    table = Table(title="targets: calls a second over the rival's, median of the ratios within rounds")
    for column in ("job", "calls at a time", "rival", "target", "reached", ""):
        table.add_column(column, justify="right" if column in ("target", "reached") else "left")
    missed = False
    for (job, level, rival), target in TARGETS.items():
        if job not in {one.name for one in jobs} or level not in levels:
            continue
        reached = _ratio(measured, job, level, rival)
        met = reached >= target
        missed |= not met
        verdict = "[green]met[/green]" if met else "[red]not met[/red]"
        table.add_row(job, str(level), rival, f"{target:.1f}", f"{reached:.2f}", verdict)
    console.print(table)
    return missed


def _as_json(measured: Rounds, seconds: float, load: float) -> dict[str, Any]:
    cells = []
    for (job, level, server), rounds in measured.items():
        cell: dict[str, Any] = {
            "job": job,
            "concurrency": level,
            "server": server,
            "median": _median(rounds)._asdict(),
            "rounds": [one._asdict() for one in rounds],
        }
        if server != OURS:
            cell["ours_over_it"] = _ratio(measured, job, level, server)
            cell["target"] = TARGETS.get((job, level, server))
        cells.append(cell)
    return {"seconds": seconds, "load_average": load, "cells": cells}


if __name__ == "__main__":
    typer.run(command)
