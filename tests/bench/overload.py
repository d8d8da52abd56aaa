"""`make bench-overload`: arrivals at three times what the server can carry, which do not wait for its answers.

First the most that it carries, by callers who wait for their answers. Then calls come at random moments, three times
as many, whatever becomes of them. A server that holds keeps its goodput, refuses the rest at once and says when to
come back, and whoever it accepts waits no longer than its queue is deep.
"""

import asyncio
import json
import random
import re
import time
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Annotated, Any

import grpc.aio
import numpy as np
import typer
from google.rpc import error_details_pb2, status_pb2
from rich.console import Console
from rich.table import Table

import children
from children import Server
from jobs import tensor_request
from load import Call, calls_to, closed_loop, load_average
from poolservice.specs import LPPool2d

QUEUE_ITEMS = 64
QUEUE_BYTES = 64 * 2**20
ARRIVALS_OVER_PEAK = 3.0
LEAST_GOODPUT = 0.9
MOST_LATENCY_OVER_QUEUE = 2.0

# Some forty milliseconds of a core for 295 kB, so that neither the client's cost nor that of refusing, half a
# millisecond each, counts for much: at ten milliseconds they took a sixth of two cores from the work.
_REQUEST = tensor_request(np.random.default_rng(0).random((8, 96, 96), np.float32), LPPool2d(2.0, 31, stride=1))
# As many as there is room for, so that batches at the peak are as large as under overload, and so is what they take.
_PEAK_CALLERS = QUEUE_ITEMS
_WATCH_SECONDS = 0.2
_METRICS_URL = re.compile(r"http://127\.0\.0\.1:\d+/metrics")

console = Console()


@dataclass
class Outcomes:
    """What became of the calls.

    Attributes:
        offered: calls that were made.
        latencies: seconds to the answer, of those that were answered.
        retry_after: seconds that refused calls were told to wait.
        untold: refusals that did not say.
        failures: calls that failed otherwise, by code.
        most_held: the most items that the server held at a time.
    """

    offered: int = 0
    latencies: list[float] = field(default_factory=list)
    retry_after: list[float] = field(default_factory=list)
    untold: int = 0
    failures: list[str] = field(default_factory=list)
    most_held: int = 0


def command(
    seconds: Annotated[float, typer.Option(help="Seconds of overload.")] = 30.0,
    out: Annotated[Path | None, typer.Option("--json", help="Where the results go as JSON.")] = None,
) -> None:
    """Overload a server and see what it does."""
    children.end_on_sigterm()
    flags = ("--max-queue-items", str(QUEUE_ITEMS), "--max-queue-bytes", str(QUEUE_BYTES))
    with (
        TemporaryFile("w+") as log,
        children.running(*children.POOLSERVICE, *flags, "--metrics-address", "127.0.0.1:0", log=log) as server,
    ):
        results = asyncio.run(_run(server, _metrics_url(log), seconds))
    missed = _print(results)
    if out is not None:
        out.write_text(json.dumps(results, indent=2))
    raise typer.Exit(int(missed))


async def _run(server: Server, metrics_url: str, seconds: float) -> dict[str, Any]:
    async with calls_to(server.address) as (call,):
        peak = await closed_loop(server, (call,), _REQUEST, concurrency=_PEAK_CALLERS, seconds=max(3.0, seconds / 6))
        server.forget_peak()
        started = time.perf_counter()
        outcomes = await _overload(call, ARRIVALS_OVER_PEAK * peak.rate, seconds, metrics_url)
        elapsed = time.perf_counter() - started
    return {
        "peak_rate": peak.rate,
        "offered_rate": outcomes.offered / seconds,
        "goodput": len(outcomes.latencies) / elapsed,
        "goodput_over_peak": len(outcomes.latencies) / elapsed / peak.rate,
        "p50_seconds": float(np.percentile(outcomes.latencies, 50)),
        "p99_seconds": float(np.percentile(outcomes.latencies, 99)),
        "queue_seconds": QUEUE_ITEMS / peak.rate,
        "most_held_items": outcomes.most_held,
        "most_queue_items": QUEUE_ITEMS,
        "refused": len(outcomes.retry_after) + outcomes.untold,
        "refused_without_retry_info": outcomes.untold,
        "median_retry_after_seconds": float(np.median(outcomes.retry_after)) if outcomes.retry_after else None,
        "failures": sorted(set(outcomes.failures)),
        "peak_mb_before": peak.peak_mb,
        "peak_mb": server.peak_bytes() / 1e6,
        "queue_mb": QUEUE_BYTES / 1e6,
        "load_average": load_average(),
    }


async def _overload(call: Call, rate: float, seconds: float, metrics_url: str) -> Outcomes:
    arrivals = random.Random(0)
    outcomes = Outcomes()
    loop = asyncio.get_running_loop()
    stop = loop.time() + seconds

    async def one() -> None:
        began = time.perf_counter()
        try:
            await call(_REQUEST)
            outcomes.latencies.append(time.perf_counter() - began)
        except grpc.aio.AioRpcError as error:
            _note(error, outcomes)

    async def watch() -> None:
        while loop.time() < stop:
            outcomes.most_held = max(outcomes.most_held, await asyncio.to_thread(_held_items, metrics_url))
            await asyncio.sleep(_WATCH_SECONDS)

    async with asyncio.TaskGroup() as calls:
        calls.create_task(watch())
        due = loop.time()
        while due < stop:
            await asyncio.sleep(max(0.0, due - loop.time()))
            calls.create_task(one())
            outcomes.offered += 1
            due += arrivals.expovariate(rate)
    return outcomes


def _note(error: grpc.aio.AioRpcError, outcomes: Outcomes) -> None:
    if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
        outcomes.failures.append(error.code().name)
        return
    retry = error_details_pb2.RetryInfo()
    for key, value in error.trailing_metadata():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            status = status_pb2.Status.FromString(value)
            if any(detail.Unpack(retry) for detail in status.details):
                outcomes.retry_after.append(retry.retry_delay.ToTimedelta().total_seconds())
                return
    outcomes.untold += 1


def _metrics_url(log: IO[str]) -> str:
    log.seek(0)
    found = _METRICS_URL.search(log.read())
    if found is None:
        raise RuntimeError("the server's log does not say where its metrics are")
    return found[0]


def _held_items(metrics_url: str) -> int:
    with urllib.request.urlopen(metrics_url) as answer:
        lines: Iterable[str] = answer.read().decode().splitlines()
    return round(next(float(line.split()[1]) for line in lines if line.startswith("poolservice_admitted_requests ")))


def _print(results: dict[str, Any]) -> bool:
    """Say what was found; whether anything was missed."""
    rows = [
        (
            "goodput over peak",
            f"{results['goodput_over_peak']:.2f}  ({results['goodput']:.0f} of {results['peak_rate']:.0f} calls/s)",
            f"at least {LEAST_GOODPUT}",
            results["goodput_over_peak"] >= LEAST_GOODPUT,
        ),
        (
            "p99 of the accepted over the queue's bound",
            f"{results['p99_seconds'] / results['queue_seconds']:.2f}  "
            f"({results['p99_seconds']:.2f} s, {QUEUE_ITEMS} items are {results['queue_seconds']:.2f} s)",
            f"at most {MOST_LATENCY_OVER_QUEUE:.0f}",
            results["p99_seconds"] <= MOST_LATENCY_OVER_QUEUE * results["queue_seconds"],
        ),
        (
            "items held",
            f"{results['most_held_items']}",
            f"at most {QUEUE_ITEMS}",
            results["most_held_items"] <= QUEUE_ITEMS,
        ),
        (
            "memory, MB",
            f"{results['peak_mb']:.0f}  ({results['peak_mb_before']:.0f} at the peak before)",
            f"at most {results['queue_mb']:.0f} more",
            results["peak_mb"] <= results["peak_mb_before"] + results["queue_mb"],
        ),
        (
            "refusals without RetryInfo",
            f"{results['refused_without_retry_info']}  (of {results['refused']})",
            "0",
            results["refused_without_retry_info"] == 0,
        ),
        ("other failures", ", ".join(results["failures"]) or "none", "none", not results["failures"]),
    ]
    table = Table(title=f"arrivals at {results['offered_rate']:.0f} calls/s, {ARRIVALS_OVER_PEAK:.0f} times the peak")
    for column in ("", "found", "target", ""):
        table.add_column(column)
    for name, found, target, met in rows:
        table.add_row(name, found, target, "[green]met[/green]" if met else "[red]not met[/red]")
    console.print(table)
    console.print(f"load of the machine: {results['load_average']:.1f}")
    return not all(met for *_, met in rows)


if __name__ == "__main__":
    typer.run(command)
