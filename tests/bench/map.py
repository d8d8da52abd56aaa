"""`make bench-map`: compare `client.map` with a loop of `client.pool` and with hand-tuned parallel calls."""

import asyncio
import itertools
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import children
from load import load_average, rotated
from poolservice_client import AsyncPoolClient, GlobalAvgPool2d, MaxPool2d, PoolClient, PoolSpec

LOOP, MAP, ASYNC_MAP = "loop of pool()", "map", "map, asyncio"
_PARALLEL = (2, 4, 8, 16, 32)

console = Console()


@dataclass(frozen=True)
class Workload:
    """Items of one size, all of the same shape.

    Attributes:
        title: the size of an item, for the table.
        shape: the shape of the float32 tensors.
        spec: how they are pooled.
        items: the number of items in one measurement.
        tuned: True if the baseline is hand-tuned parallel calls, False if it is the loop.
        target: the least throughput of map, as a multiple of the baseline's.
    """

    title: str
    shape: tuple[int, ...]
    spec: PoolSpec
    items: int
    tuned: bool
    target: float


WORKLOADS = (
    Workload("2 KB", (8, 8, 8), GlobalAvgPool2d(), 4000, False, 3.0),
    Workload("65 KB", (16, 32, 32), MaxPool2d(2), 1000, True, 1.0),
    Workload("262 KB", (64, 32, 32), MaxPool2d(2), 400, True, 1.0),
    Workload("602 KB", (3, 224, 224), MaxPool2d(2), 300, True, 0.9),
)


class Measurement(NamedTuple):
    """One measurement of one method.

    Attributes:
        rate: items per second.
        client_us: the client's CPU time per item, in microseconds.
        server_us: the server's CPU time per item, in microseconds.
    """

    rate: float
    client_us: float
    server_us: float


class Method(NamedTuple):
    """One method to pool many items; `run` pools the given number."""

    name: str
    run: Callable[[int], Awaitable[None]]


def command(
    size: Annotated[
        list[str] | None, typer.Option(help="2KB, 65KB, 262KB or 602KB. May be repeated. Default: all.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Rounds over all methods.")] = 7,
    quick: Annotated[bool, typer.Option("--quick", help="Two short rounds, too few for reliable figures.")] = False,
    out: Annotated[Path | None, typer.Option("--json", help="Write the results to this file as JSON.")] = None,
) -> None:
    """Measure the throughput of map and of its alternatives, in one client process."""
    children.end_on_sigterm()
    known = {workload.title.replace(" ", ""): workload for workload in WORKLOADS}
    if unknown := set(size or ()) - set(known):
        raise typer.BadParameter(f"unknown size: {', '.join(sorted(unknown))}; known sizes: {', '.join(known)}")
    load_before = load_average()
    measured = {}
    with Progress(console=console, transient=True) as progress:
        for workload in [known[name] for name in size or known]:
            task = progress.add_task(workload.title, total=2 if quick else rounds)
            items = workload.items // 4 if quick else workload.items
            measured[workload] = asyncio.run(
                _measure(workload, items, 2 if quick else rounds, partial(progress.advance, task))
            )
    missed = False
    for workload, measurements in measured.items():
        missed |= _print(workload, measurements)
    console.print(f"load average of the machine: {load_before:.1f} before, {load_average():.1f} after")
    if out is not None:
        out.write_text(json.dumps(_as_json(measured, load_before), indent=2))
    raise typer.Exit(int(missed and not quick))


async def _measure(
    workload: Workload, items: int, rounds: int, advance: Callable[[], object]
) -> dict[str, list[Measurement]]:
    """Measure every method once per round; each round starts with another one."""
    x = np.random.default_rng(0).standard_normal(workload.shape).astype(np.float32)
    measurements: dict[str, list[Measurement]] = defaultdict(list)
    with children.running(*children.POOLSERVICE) as server, PoolClient(server.address) as client:
        async with AsyncPoolClient(server.address) as aclient:
            methods = _methods(Clients(client, aclient, x, workload.spec))
            for number in range(rounds):
                for method in rotated(methods, number):
                    # The loop is slow enough to be measured on fewer items.
                    count = items // 8 if method.name == LOOP else items
                    await method.run(count // 8)
                    measurements[method.name].append(await _timed(server, method, count))
                advance()
    return {method.name: measurements[method.name] for method in methods}


@dataclass(frozen=True)
class Clients:
    """The methods to pool many items: both clients, and the item that each method pools again and again."""

    client: PoolClient
    aclient: AsyncPoolClient
    x: NDArray[np.float32]
    spec: PoolSpec

    async def loop(self, items: int) -> None:
        for _ in range(items):
            self.client.pool(self.x, self.spec)

    async def mapped(self, items: int) -> None:
        self._check(sum(1 for _ in self.client.map(itertools.repeat(self.x, items), self.spec)), items)

    async def mapped_async(self, items: int) -> None:
        count = 0
        async for _ in self.aclient.map(itertools.repeat(self.x, items), self.spec):
            count += 1
        self._check(count, items)

    async def threads(self, count: int, items: int) -> None:
        with ThreadPoolExecutor(count) as executor:
            self._check(
                sum(1 for _ in executor.map(lambda _: self.client.pool(self.x, self.spec), range(items))), items
            )

    async def tasks(self, count: int, items: int) -> None:
        left = iter(range(items))

        async def caller() -> None:
            for _ in left:
                await self.aclient.pool(self.x, self.spec)

        await asyncio.gather(*(caller() for _ in range(count)))

    def _check(self, results: int, items: int) -> None:
        if results != items:
            raise ValueError(f"{items} items had {results} results")


def _methods(clients: Clients) -> list[Method]:
    return [
        Method(LOOP, clients.loop),
        *(Method(f"{count} threads of pool()", partial(clients.threads, count)) for count in _PARALLEL),
        *(Method(f"{count} tasks of pool()", partial(clients.tasks, count)) for count in _PARALLEL),
        Method(MAP, clients.mapped),
        Method(ASYNC_MAP, clients.mapped_async),
    ]


async def _timed(server: children.Server, method: Method, items: int) -> Measurement:
    server_before, client_before = sum(server.cpu_seconds().values()), time.process_time()
    started = time.perf_counter()
    await method.run(items)
    elapsed = time.perf_counter() - started
    client = time.process_time() - client_before
    used = sum(server.cpu_seconds().values()) - server_before
    return Measurement(items / elapsed, client / items * 1e6, used / items * 1e6)


def _baseline(workload: Workload, measurements: dict[str, list[Measurement]], method: str) -> str:
    """Return the method that `method` is compared with: the loop, or the best parallel calls of the same client."""
    if not workload.tuned:
        return LOOP
    callers = "tasks" if method == ASYNC_MAP else "threads"
    return max((name for name in measurements if callers in name), key=lambda name: _median(measurements[name]).rate)


def _ratio(measurements: dict[str, list[Measurement]], method: str, baseline: str) -> float:
    return statistics.median(
        one.rate / other.rate for one, other in zip(measurements[method], measurements[baseline], strict=True)
    )


def _median(measurements: list[Measurement]) -> Measurement:
    return Measurement(*map(statistics.median, zip(*measurements, strict=True)))


def _print(workload: Workload, measurements: dict[str, list[Measurement]]) -> bool:
    """Print the table of a workload; return True if a target was missed."""
    table = Table(title=f"{workload.title}: {workload.shape} float32, {workload.spec!r}")
    table.add_column("method")
    for column in ("items/s", "client CPU µs", "server CPU µs", "over its baseline", "target"):
        table.add_column(column, justify="right")
    missed = False
    for name, rounds in measurements.items():
        median = _median(rounds)
        row = [name, f"{median.rate:,.0f}", f"{median.client_us:.0f}", f"{median.server_us:.0f}"]
        if name in (MAP, ASYNC_MAP):
            baseline = _baseline(workload, measurements, name)
            reached = _ratio(measurements, name, baseline)
            missed |= reached < workload.target
            color = "green" if reached >= workload.target else "red"
            row += [f"[{color}]{reached:.2f}[/{color}] ({baseline})", f"{workload.target:.1f}"]
        table.add_row(*row, end_section=name.startswith(f"{_PARALLEL[-1]} tasks"))
    console.print(table)
    return missed


def _as_json(measured: dict[Workload, dict[str, list[Measurement]]], load: float) -> dict[str, Any]:
    return {
        "load_average": load,
        "workloads": [
            {
                "title": workload.title,
                "target": workload.target,
                "methods": {
                    name: {"median": _median(rounds)._asdict(), "rounds": [one._asdict() for one in rounds]}
                    for name, rounds in measurements.items()
                },
                "over_baseline": {
                    method: {
                        "baseline": (baseline := _baseline(workload, measurements, method)),
                        "ratio": _ratio(measurements, method, baseline),
                    }
                    for method in (MAP, ASYNC_MAP)
                },
            }
            for workload, measurements in measured.items()
        ],
    }


if __name__ == "__main__":
    typer.run(command)
