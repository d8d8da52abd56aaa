"""`make bench-backbone`: compare poolservice with the fastest program, and with other servers around the same network.

limit            one thread per core, each decoding with Pillow, resizing and running onnxruntime with one thread;
                 with one call, one such thread: decoding, resizing and the engine's own time
poolservice      poolservice-server; AsyncPoolClient
in threads       poolservice-server; PoolClient
plain            grpcio and onnxruntime with their defaults, one run per call; a gRPC client of raw bytes
mosec            a mosec server with a stage for preprocessing and one for dynamic batches; an HTTP client
mosec, 1 stage   a mosec server whose processes preprocess and run batches, each with one thread; without a target

All clients run in one process, on the same cores as the server. Each ratio is taken within one round, in which all of
them run under the same conditions. The tables show the median of these ratios.
"""

import asyncio
import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import backbone_gpu
import children
from backbone_contestants import MOSEC, Contestant, EmbeddingJob, Servers, contestants
from backbone_network import NETWORKS, folder_of, image_file
from backbone_targets import TARGETS
from load import Measurement, load_average, rotated

CONCURRENCIES = (1, 8, 32)

console = Console()

Measurements = dict[tuple[str, int, str], list[Measurement]]


class Arguments(NamedTuple):
    """What is measured: see `command`."""

    levels: list[int]
    seconds: float
    rounds: int
    servers: Servers


def command(
    network: Annotated[
        list[str] | None, typer.Option(help=f"{' or '.join(NETWORKS)}. May be repeated. Default: all.")
    ] = None,
    concurrency: Annotated[
        list[int] | None, typer.Option(help="Concurrent calls. May be repeated. Default: 1, 8 and 32.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="Duration of each measurement in seconds.")] = 2.0,
    rounds: Annotated[int, typer.Option(help="Rounds over all contestants.")] = 5,
    mosec_batch: Annotated[int, typer.Option(min=2, help="The most images of one of mosec's batches.")] = 8,
    quick: Annotated[
        bool, typer.Option("--quick", help="Two rounds of 0.3 seconds: a smoke test, not a benchmark.")
    ] = False,
    gpu: Annotated[
        bool, typer.Option("--gpu", help="Measure on a GPU only, against torch alone; refused without a GPU.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--json", help="Write the results to this file as JSON.")] = None,
) -> None:
    """Measure how many images per second become embeddings, and how long one takes."""
    children.end_on_sigterm()
    names = network or list(NETWORKS)
    if unknown := set(names) - set(NETWORKS):
        raise typer.BadParameter(f"no such network: {', '.join(sorted(unknown))}; there are {', '.join(NETWORKS)}")
    levels = concurrency or list(CONCURRENCIES)
    if quick:
        seconds, rounds = 0.3, 2
    if gpu:
        raise typer.Exit(int(_measure_gpu(names, seconds, rounds, out) and not quick))
    load_before = load_average()
    file = image_file()
    measurements: Measurements = defaultdict(list)
    arguments = Arguments(levels, seconds, rounds, Servers(mosec_batch))
    known = contestants()
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("measuring", total=rounds * len(levels) * len(names) * len(known))
        for name in names:
            job = EmbeddingJob(name, folder_of(name), file)
            asyncio.run(_measure(job, known, arguments, measurements, lambda: progress.advance(task)))
    for name in names:
        console.print(_table(name, len(file), levels, known, measurements))
    missed = _print_targets(names, measurements)
    console.print(backbone_gpu.missing_gpu() or "--gpu measures on this machine's GPU")
    if MOSEC not in [one.name for one in known]:
        console.print("mosec was not measured, because it is not installed: pip install '.[peers]'")
    console.print(f"load average of the machine: {load_before:.1f} before, {load_average():.1f} after")
    if out is not None:
        out.write_text(json.dumps(_as_json(names, measurements, seconds, load_before), indent=2))
    raise typer.Exit(int(missed and not quick))


async def _measure(
    job: EmbeddingJob,
    known: Sequence[Contestant],
    arguments: Arguments,
    measurements: Measurements,
    advance: Callable[[], None],
) -> None:
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(arguments.servers.running(name, job))
            for name in dict.fromkeys(one.server for one in known)
        }
        for number in range(arguments.rounds):
            for level in arguments.levels:
                contestant: Contestant
                for contestant in rotated(known, number):
                    measured = await contestant.measure(servers[contestant.server], job, level, arguments.seconds)
                    measurements[job.network, level, contestant.name].append(measured)
                    advance()


def _table(
    network: str, nbytes: int, levels: list[int], known: Sequence[Contestant], measurements: Measurements
) -> Table:
    table = Table(
        title=f"{network}: JPEG 640x480 of {nbytes / 1000:.0f} KB to a normalized embedding",
        # With this frame, every number fits into 80 columns.
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
    )
    table.add_column("in flight", justify="right")
    table.add_column("contestant", no_wrap=True)
    for column in ("images/s", "p50 ms", "p99 ms", "server CPU ms", "client CPU ms"):
        table.add_column(column, justify="right")
    for level in levels:
        for contestant in known:
            rounds = measurements[network, level, contestant.name]
            median = Measurement(*map(statistics.median, zip(*rounds, strict=True)))
            table.add_row(
                str(level) if contestant is known[0] else "",
                contestant.name,
                f"{median.rate:.1f}",
                f"{median.p50_ms:.1f}",
                f"{median.p99_ms:.1f}",
                f"{median.server_us / 1000:.2f}",
                f"{median.client_us / 1000:.2f}",
                end_section=contestant is known[-1],
            )
    return table


def _print_targets(names: Sequence[str], measurements: Measurements) -> bool:
    """Print which targets are met. Return True if any was missed."""
    table = Table(
        title="throughput over the baseline's, or p50 above it: median over the rounds",
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
    )
    for column in ("network", "calls", "contestant", "baseline", "target", "is", ""):
        table.add_column(column, justify="right" if column in ("calls", "target", "is") else "left", no_wrap=True)
    missed = False
    for name in names:
        for target in TARGETS:
            measured = target.measured(name, measurements)
            if measured is None:
                continue
            met = target.is_met(measured)
            missed |= not met
            table.add_row(
                name,
                str(target.concurrency),
                target.contestant,
                target.baseline,
                target.text,
                f"{measured:.2f}",
                "[green]met[/green]" if met else "[red]not met[/red]",
            )
    console.print(table)
    return missed


def _measure_gpu(names: Sequence[str], seconds: float, rounds: int, out: Path | None) -> bool:
    """Print the throughput on a GPU. Return True if a target was missed, or nothing could be measured."""
    if missing := backbone_gpu.missing_gpu():
        console.print(missing)
        return True
    results = []
    missed = False
    for name in names:
        card, rates = backbone_gpu.measure_gpu(folder_of(name), seconds=seconds, rounds=rounds)
        met = rates.ratio >= backbone_gpu.RATIO
        missed |= not met
        console.print(
            f"{name} on {card}, {backbone_gpu.BATCH} images per batch: torch {statistics.median(rates.torch):,.0f} "
            f"images/s, poolservice {statistics.median(rates.poolservice):,.0f} images/s; ratio {rates.ratio:.2f}, "
            f"target {backbone_gpu.RATIO:.2f}: {'met' if met else 'not met'}"
        )
        results.append({"network": name, "card": card, **rates._asdict(), "ratio": rates.ratio})
    if out is not None:
        out.write_text(json.dumps(results, indent=2))
    return missed


def _as_json(names: Sequence[str], measurements: Measurements, seconds: float, load: float) -> dict[str, Any]:
    targets = []
    for name in names:
        for target in TARGETS:
            measured = target.measured(name, measurements)
            if measured is not None:
                targets.append({"network": name, **target._asdict(), "measured": measured})
    cells = [
        {"network": name, "concurrency": level, "contestant": contestant, "rounds": [one._asdict() for one in rounds]}
        for (name, level, contestant), rounds in measurements.items()
    ]
    return {"seconds": seconds, "load_average": load, "targets": targets, "cells": cells}


if __name__ == "__main__":
    typer.run(command)
