"""`client.map` against a loop of `client.pool`, and against parallel calls tuned by hand."""

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
class Work:
    """Items of one size, all of the same shape.

    Attributes:
        title: what they are.
        shape: of a float32 tensor.
        spec: what is asked of it.
        items: how many are measured at a time.
        tuned: whether parallel calls tuned by hand are the rival, not the loop.
        target: at least this many times the rival's items a second.
    """

    title: str
    shape: tuple[int, ...]
    spec: PoolSpec
    items: int
    tuned: bool
    target: float


WORK = (
    Work("2 KB", (8, 8, 8), GlobalAvgPool2d(), 4000, False, 3.0),
    Work("65 KB", (16, 32, 32), MaxPool2d(2), 1000, True, 1.0),
    Work("262 KB", (64, 32, 32), MaxPool2d(2), 400, True, 1.0),
    Work("602 KB", (3, 224, 224), MaxPool2d(2), 300, True, 0.9),
)


class Cell(NamedTuple):
    """A stretch of items.

    Attributes:
        rate: items a second.
        client_us: the client's CPU time an item, in microseconds.
        server_us: the server's.
    """

    rate: float
    client_us: float
    server_us: float


class Way(NamedTuple):
    """A way to get many items pooled; `run` does so many."""

    name: str
    run: Callable[[int], Awaitable[None]]


def command(
    size: Annotated[list[str] | None, typer.Option(help="2KB, 65KB, 262KB or 602KB; all unless given.")] = None,
    rounds: Annotated[int, typer.Option(help="Rounds over all ways.")] = 7,
    quick: Annotated[bool, typer.Option("--quick", help="Two short rounds: a look, no figure.")] = False,
    out: Annotated[Path | None, typer.Option("--json", help="Where the results go as JSON.")] = None,
) -> None:
    """Measure items a second of map and of what would be written in its place, in one client process."""
    children.end_on_sigterm()
    known = {work.title.replace(" ", ""): work for work in WORK}
    if unknown := set(size or ()) - set(known):
        raise typer.BadParameter(f"no such size: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    load_before = load_average()
    measured = {}
    with Progress(console=console, transient=True) as progress:
        for work in [known[name] for name in size or known]:
            task = progress.add_task(work.title, total=2 if quick else rounds)
            items = work.items // 4 if quick else work.items
            measured[work] = asyncio.run(_measure(work, items, 2 if quick else rounds, partial(progress.advance, task)))
    missed = False
    for work, cells in measured.items():
        missed |= _print(work, cells)
    console.print(f"load of the machine: {load_before:.1f} before, {load_average():.1f} after")
    if out is not None:
        out.write_text(json.dumps(_as_json(measured, load_before), indent=2))
    raise typer.Exit(int(missed and not quick))


async def _measure(work: Work, items: int, rounds: int, advance: Callable[[], object]) -> dict[str, list[Cell]]:
    """Each way in each round, each time another one first."""
    x = np.random.default_rng(0).standard_normal(work.shape).astype(np.float32)
    cells: dict[str, list[Cell]] = defaultdict(list)
    with children.running(*children.POOLSERVICE) as server, PoolClient(server.address) as client:
        async with AsyncPoolClient(server.address) as aclient:
            ways = _ways(Clients(client, aclient, x, work.spec))
            for number in range(rounds):
                for way in rotated(ways, number):
                    # A loop is slow enough to be measured on fewer.
                    count = items // 8 if way.name == LOOP else items
                    await way.run(count // 8)
                    cells[way.name].append(await _timed(server, way, count))
                advance()
    return {way.name: cells[way.name] for way in ways}


@dataclass(frozen=True)
class Clients:
    """Both clients and one item: every way to get it pooled many times."""

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
        given = 0
        async for _ in self.aclient.map(itertools.repeat(self.x, items), self.spec):
            given += 1
        self._check(given, items)

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

    def _check(self, given: int, items: int) -> None:
        if given != items:
            raise ValueError(f"{given} answers came for {items} items")


def _ways(clients: Clients) -> list[Way]:
    return [
        Way(LOOP, clients.loop),
        *(Way(f"{count} threads of pool()", partial(clients.threads, count)) for count in _PARALLEL),
        *(Way(f"{count} tasks of pool()", partial(clients.tasks, count)) for count in _PARALLEL),
        Way(MAP, clients.mapped),
        Way(ASYNC_MAP, clients.mapped_async),
    ]


async def _timed(server: children.Server, way: Way, items: int) -> Cell:
    server_before, client_before = sum(server.cpu_seconds().values()), time.process_time()
    started = time.perf_counter()
    await way.run(items)
    elapsed = time.perf_counter() - started
    client = time.process_time() - client_before
    used = sum(server.cpu_seconds().values()) - server_before
    return Cell(items / elapsed, client / items * 1e6, used / items * 1e6)


def _rival(work: Work, cells: dict[str, list[Cell]], way: str) -> str:
    """What `way` is held against: the loop, or the best of the parallel calls of its own kind, by their medians."""
    if not work.tuned:
        return LOOP
    kind = "tasks" if way == ASYNC_MAP else "threads"
    return max((name for name in cells if kind in name), key=lambda name: _median(cells[name]).rate)


def _ratio(cells: dict[str, list[Cell]], way: str, rival: str) -> float:
    return statistics.median(ours.rate / its.rate for ours, its in zip(cells[way], cells[rival], strict=True))


def _median(cells: list[Cell]) -> Cell:
    return Cell(*map(statistics.median, zip(*cells, strict=True)))


def _print(work: Work, cells: dict[str, list[Cell]]) -> bool:
    """Print a table; whether a target was missed."""
    table = Table(title=f"{work.title}: {work.shape} float32, {work.spec!r}")
    table.add_column("way")
    for column in ("items/s", "client CPU µs", "server CPU µs", "over its rival", "target"):
        table.add_column(column, justify="right")
    missed = False
    for name, rounds in cells.items():
        cell = _median(rounds)
        row = [name, f"{cell.rate:,.0f}", f"{cell.client_us:.0f}", f"{cell.server_us:.0f}"]
        if name in (MAP, ASYNC_MAP):
            rival = _rival(work, cells, name)
            reached = _ratio(cells, name, rival)
            missed |= reached < work.target
            colour = "green" if reached >= work.target else "red"
            row += [f"[{colour}]{reached:.2f}[/{colour}] ({rival})", f"{work.target:.1f}"]
        table.add_row(*row, end_section=name.startswith(f"{_PARALLEL[-1]} tasks"))
    console.print(table)
    return missed


def _as_json(measured: dict[Work, dict[str, list[Cell]]], load: float) -> dict[str, Any]:
    return {
        "load_average": load,
        "work": [
            {
                "title": work.title,
                "target": work.target,
                "ways": {
                    name: {"median": _median(rounds)._asdict(), "rounds": [one._asdict() for one in rounds]}
                    for name, rounds in cells.items()
                },
                "over_rival": {
                    way: {"rival": (rival := _rival(work, cells, way)), "ratio": _ratio(cells, way, rival)}
                    for way in (MAP, ASYNC_MAP)
                },
            }
            for work, cells in measured.items()
        ],
    }


if __name__ == "__main__":
    typer.run(command)
