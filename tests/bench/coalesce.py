"""`make bench-coalesce`: the cost of small calls of one client, coalesced and uncoalesced.

It measures the public client, with all its checks and conversions, against poolservice-server on the CPU. Client and
server share the cores of the machine. Each round measures both, and the median of the rounds' ratios is reported, with
those that must be reached (`MIN_GAIN`). The server may have several workers (`--workers`).
Here the client coalesces payloads of every size, beyond its limit: the size at which the ratio falls to one is the
right limit.
"""

import asyncio
import json
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import children
from children import Server
from jobs import photograph
from load import load_average, rotated
from poolservice_client import AsyncPoolClient, GlobalAvgPool2d, PoolClient
from poolservice_client._coalescing import limits

CALLERS = (1, 8, 32)
CLIENTS = ("asyncio", "threads")

#: The most CPU microseconds of client and server per J4c call, by client and callers.
MAX_CPU = {("asyncio", 32): 45.0, ("threads", 32): 100.0}
#: The least calls per second relative to a client that does not coalesce, by job and callers, for both clients.
MIN_GAIN = {("J3", 32): 1.8, ("128x7x7", 32): 3.0, ("J4c", 1): 1 / 1.05}

_WARM_UP_SECONDS = 0.2
_SPEC = GlobalAvgPool2d()

# Wide enough for the tables, also in a file.
console = Console(width=120)


class Job(NamedTuple):
    """The tensor or image file of which every caller requests the global average."""

    name: str
    payload: Any

    @property
    def nbytes(self) -> int:
        """The size of the payload in bytes."""
        return len(self.payload) if isinstance(self.payload, bytes) else int(self.payload.nbytes)


class Measured(NamedTuple):
    """One measurement: calls per second, CPU microseconds per call of client and server, percentiles of the latency."""

    rate: float
    client_us: float
    server_us: float
    p50_ms: float
    p99_ms: float

    @property
    def cpu_us(self) -> float:
        """CPU microseconds per call of client and server together."""
        return self.client_us + self.server_us


#: By job, client, callers and whether calls are coalesced: one measurement per round.
Rounds = dict[tuple[str, str, int, bool], list[Measured]]


def make_jobs() -> list[Job]:
    """Return J4c (float32, 8x8x8), J3 (512x7x7), and tensors and images of other sizes."""
    random = np.random.default_rng(0)
    tensors = {"J4c": (8, 8, 8), "8x16x16": (8, 16, 16), "64x8x8": (64, 8, 8), "128x7x7": (128, 7, 7)}
    tensors |= {"256x8x8": (256, 8, 8), "J3": (512, 7, 7), "1024x8x8": (1024, 8, 8)}
    jobs = [Job(name, random.random(shape, np.float32)) for name, shape in tensors.items()]
    images = [
        Job(f"JPEG {width}x{height}", photograph(width, height))
        for width, height in ((32, 24), (64, 48), (160, 120), (320, 240), (640, 480))
    ]
    return jobs + images


def command(
    job: Annotated[list[str] | None, typer.Option(help="J4c, J3, 64x8x8, 'JPEG 64x48', ...; default: all.")] = None,
    callers: Annotated[list[int] | None, typer.Option(help="Concurrent callers; default: 1, 8 and 32.")] = None,
    seconds: Annotated[float, typer.Option(help="Seconds of each measurement.")] = 1.0,
    rounds: Annotated[int, typer.Option(help="Rounds over all measurements.")] = 5,
    workers: Annotated[int, typer.Option(help="Workers of the server.")] = 1,
    quick: Annotated[bool, typer.Option("--quick", help="Two rounds of 0.4 seconds: a smoke test.")] = False,
    out: Annotated[Path | None, typer.Option("--json", help="Write the results to this file as JSON.")] = None,
) -> None:
    """Compare coalesced small calls with uncoalesced ones."""
    children.end_on_sigterm()
    known = make_jobs()
    if unknown := set(job or ()) - {one.name for one in known}:
        raise typer.BadParameter(f"no such job: {', '.join(sorted(unknown))}")
    chosen = [one for one in known if not job or one.name in job]
    levels = callers or list(CALLERS)
    if quick:
        seconds, rounds = 0.4, 2
    limits.MAX_TENSOR_BYTES = limits.MAX_IMAGE_BYTES = limits.TENSORS.nbytes
    load_before = load_average()
    measured: Rounds = defaultdict(list)
    with (
        children.running(*children.POOLSERVICE, "--workers", str(workers)) as server,
        Progress(console=console, transient=True) as progress,
    ):
        task = progress.add_task("measuring", total=len(chosen) * len(levels) * len(CLIENTS) * rounds * 2)
        for number in range(rounds):
            for one in chosen:
                for client in CLIENTS:
                    for level in levels:
                        for coalesce in rotated((True, False), number):
                            cell = MEASURES[client](server, one.payload, level, seconds, coalesce)
                            measured[one.name, client, level, coalesce].append(cell)
                            progress.advance(task)
    for client in CLIENTS:
        console.print(_table(client, chosen, levels, measured))
    missed = _print_targets(chosen, levels, measured)
    console.print(f"load average of the machine: {load_before:.1f} before, {load_average():.1f} after")
    if out is not None:
        out.write_text(json.dumps(_as_json(measured, seconds, load_before), indent=2))
    raise typer.Exit(int(missed and not quick))


def measure_asyncio(server: Server, payload: Any, callers: int, seconds: float, coalesce: bool) -> Measured:
    """Measure `callers` tasks that make calls for `seconds`."""

    async def measure() -> Measured:
        async with AsyncPoolClient(server.address, coalesce=coalesce) as client:

            async def keep_calling(seconds: float) -> list[float]:
                durations: list[float] = []
                stop = time.perf_counter() + seconds

                async def caller() -> None:
                    while (began := time.perf_counter()) < stop:
                        await client.pool(payload, _SPEC)
                        durations.append(time.perf_counter() - began)

                await asyncio.gather(*(caller() for _ in range(callers)))
                return durations

            await keep_calling(_WARM_UP_SECONDS)
            before = _times(server)
            return _measured(server, before, await keep_calling(seconds))

    return asyncio.run(measure())


def measure_threads(server: Server, payload: Any, callers: int, seconds: float, coalesce: bool) -> Measured:
    """Measure `callers` threads that make calls for `seconds`."""
    with PoolClient(server.address, coalesce=coalesce) as client:

        def keep_calling(seconds: float) -> list[float]:
            durations: list[float] = []
            stop = time.perf_counter() + seconds

            def caller() -> None:
                while (began := time.perf_counter()) < stop:
                    client.pool(payload, _SPEC)
                    durations.append(time.perf_counter() - began)

            threads = [threading.Thread(target=caller) for _ in range(callers)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return durations

        keep_calling(_WARM_UP_SECONDS)
        before = _times(server)
        return _measured(server, before, keep_calling(seconds))


MEASURES: dict[str, Callable[[Server, Any, int, float, bool], Measured]] = {
    "asyncio": measure_asyncio,
    "threads": measure_threads,
}


def _times(server: Server) -> tuple[float, float, float]:
    return time.perf_counter(), time.process_time(), sum(server.cpu_seconds().values())


def _measured(server: Server, before: tuple[float, float, float], durations: list[float]) -> Measured:
    elapsed, client, served = (now - then for now, then in zip(_times(server), before, strict=True))
    done = len(durations)
    p50, p99 = np.percentile(durations, (50, 99)) * 1e3
    return Measured(done / elapsed, client / done * 1e6, served / done * 1e6, p50, p99)


def _median(cells: list[Measured]) -> Measured:
    return Measured(*map(statistics.median, zip(*cells, strict=True)))


def _p99_ratio(measured: Rounds, job: str, client: str, level: int) -> float:
    """Return the 99th percentile, coalesced over uncoalesced: the median of the rounds' ratios."""
    pairs = zip(measured[job, client, level, True], measured[job, client, level, False], strict=True)
    return statistics.median(coalesced.p99_ms / uncoalesced.p99_ms for coalesced, uncoalesced in pairs)


def _gain(measured: Rounds, job: str, client: str, level: int) -> float:
    """Return the calls per second, coalesced over uncoalesced: the median of the rounds' ratios."""
    pairs = zip(measured[job, client, level, True], measured[job, client, level, False], strict=True)
    return statistics.median(coalesced.rate / uncoalesced.rate for coalesced, uncoalesced in pairs)


def _table(client: str, jobs: list[Job], levels: list[int], measured: Rounds) -> Table:
    table = Table(title=f"{client}: coalesced and uncoalesced calls")
    for column in ("job", "callers", "calls/s", "client + server CPU µs", "p50 ms", "p99 ms"):
        table.add_column(column, justify="left" if column == "job" else "right")
    for column in ("calls/s without", "CPU µs without", "gain", "p99 ratio"):
        table.add_column(column, justify="right")
    for job in jobs:
        for level in levels:
            coalesced, uncoalesced = (_median(measured[job.name, client, level, key]) for key in (True, False))
            is_first = level == levels[0]
            table.add_row(
                f"{job.name}, {job.nbytes / 1024:.0f} KB" if is_first else "",
                str(level),
                f"{coalesced.rate:,.0f}",
                f"{coalesced.client_us:.0f} + {coalesced.server_us:.0f}",
                f"{coalesced.p50_ms:.2f}",
                f"{coalesced.p99_ms:.2f}",
                f"{uncoalesced.rate:,.0f}",
                f"{uncoalesced.cpu_us:.0f}",
                f"{_gain(measured, job.name, client, level):.2f}",
                f"{_p99_ratio(measured, job.name, client, level):.2f}",
                end_section=level == levels[-1],
            )
    return table


def _print_targets(jobs: list[Job], levels: list[int], measured: Rounds) -> bool:
    """Print which targets are met. Return True if any was missed."""
    names = {job.name for job in jobs}
    results = [
        (f"J4c, {level} callers, {client}: CPU µs per call, client and server, at most", limit, cell.cpu_us, -1)
        for (client, level), limit in MAX_CPU.items()
        if "J4c" in names and level in levels
        for cell in [_median(measured["J4c", client, level, True])]
    ]
    results += [
        (f"{name}, {level} callers, {client}: gain, at least", limit, _gain(measured, name, client, level), 1)
        for (name, level), limit in MIN_GAIN.items()
        if name in names and level in levels
        for client in CLIENTS
    ]
    if not results:
        return False
    table = Table(title="targets")
    for column in ("target", "limit", "measured", ""):
        table.add_column(column, justify="right" if column in ("limit", "measured") else "left")
    for target, limit, value, sign in results:
        verdict = "[green]met[/green]" if value * sign >= limit * sign else "[red]not met[/red]"
        table.add_row(target, f"{limit:.2f}", f"{value:.2f}", verdict)
    console.print(table)
    return any(value * sign < limit * sign for _, limit, value, sign in results)


def _as_json(measured: Rounds, seconds: float, load: float) -> dict[str, Any]:
    cells = [
        {
            "job": job,
            "client": client,
            "callers": level,
            "coalesced": coalesced,
            "median": _median(rounds)._asdict(),
            "rounds": [one._asdict() for one in rounds],
            "coalesced_over_uncoalesced": _gain(measured, job, client, level),
        }
        for (job, client, level, coalesced), rounds in measured.items()
    ]
    return {"seconds": seconds, "load_average": load, "cells": cells}


if __name__ == "__main__":
    typer.run(command)
