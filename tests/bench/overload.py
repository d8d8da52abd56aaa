"""`make bench-overload`: offer the server three times the load that it can handle.

First a closed loop measures the peak throughput. Then an open loop sends calls at random times, at three times that
rate, without waiting for responses. A server that withstands this keeps its goodput (calls completed per second),
refuses the rest immediately with a retry delay, and completes each accepted call within the time that its queue allows.
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

QUEUE_REQUESTS = 64
QUEUE_BYTES = 64 * 2**20
LOAD_OVER_PEAK = 3.0
MIN_GOODPUT_OVER_PEAK = 0.9
MAX_LATENCY_OVER_QUEUE = 2.0

# About 40 ms of one core for 295 kB, so that the cost of the client and of refusals, half a millisecond each, hardly
# counts. With 10 ms of computing they took a sixth of two cores.
_REQUEST = tensor_request(np.random.default_rng(0).random((8, 96, 96), np.float32), LPPool2d(2.0, 31, stride=1))
# As many callers as the queue admits requests, so that batches are as large, and cost as much, as under overload.
_PEAK_CALLERS = QUEUE_REQUESTS
_POLL_SECONDS = 0.2
_METRICS_URL = re.compile(r"http://127\.0\.0\.1:\d+/metrics")

console = Console()


@dataclass
class Outcomes:
    """The outcomes of the calls.

    Attributes:
        offered: number of calls sent.
        latencies: seconds to the response, for each completed call.
        retry_after: the retry delay in seconds, for each refusal with RetryInfo.
        refused_without_retry_info: number of refusals without RetryInfo.
        failures: the status code of each other failure.
        max_admitted: the largest number of admitted requests that the server reported.
    """

    offered: int = 0
    latencies: list[float] = field(default_factory=list)
    retry_after: list[float] = field(default_factory=list)
    refused_without_retry_info: int = 0
    failures: list[str] = field(default_factory=list)
    max_admitted: int = 0


def command(
    seconds: Annotated[float, typer.Option(help="Duration of the overload in seconds.")] = 30.0,
    out: Annotated[Path | None, typer.Option("--json", help="Write the results to this file as JSON.")] = None,
) -> None:
    """Overload a server and check goodput, latency, bounds and refusals."""
    children.end_on_sigterm()
    flags = ("--max-queue-items", str(QUEUE_REQUESTS), "--max-queue-bytes", str(QUEUE_BYTES))
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
        server.reset_peak_memory()
        started = time.perf_counter()
        outcomes = await _overload(call, LOAD_OVER_PEAK * peak.rate, seconds, metrics_url)
        elapsed = time.perf_counter() - started
    return {
        "peak_rate": peak.rate,
        "offered_rate": outcomes.offered / seconds,
        "goodput": len(outcomes.latencies) / elapsed,
        "goodput_over_peak": len(outcomes.latencies) / elapsed / peak.rate,
        "p50_seconds": float(np.percentile(outcomes.latencies, 50)),
        "p99_seconds": float(np.percentile(outcomes.latencies, 99)),
        "queue_seconds": QUEUE_REQUESTS / peak.rate,
        "max_admitted_requests": outcomes.max_admitted,
        "max_queue_requests": QUEUE_REQUESTS,
        "refused": len(outcomes.retry_after) + outcomes.refused_without_retry_info,
        "refused_without_retry_info": outcomes.refused_without_retry_info,
        "median_retry_after_seconds": float(np.median(outcomes.retry_after)) if outcomes.retry_after else None,
        "failures": sorted(set(outcomes.failures)),
        "peak_mb_before": peak.peak_mb,
        "peak_mb": server.peak_memory_bytes() / 1e6,
        "queue_mb": QUEUE_BYTES / 1e6,
        "load_average": load_average(),
    }


async def _overload(call: Call, rate: float, seconds: float, metrics_url: str) -> Outcomes:
    arrivals = random.Random(0)
    outcomes = Outcomes()
    loop = asyncio.get_running_loop()
    stop = loop.time() + seconds

    async def call_once() -> None:
        started = time.perf_counter()
        try:
            await call(_REQUEST)
            outcomes.latencies.append(time.perf_counter() - started)
        except grpc.aio.AioRpcError as error:
            _count_failure(error, outcomes)

    async def poll_metrics() -> None:
        while loop.time() < stop:
            admitted = await asyncio.to_thread(_admitted_requests, metrics_url)
            outcomes.max_admitted = max(outcomes.max_admitted, admitted)
            await asyncio.sleep(_POLL_SECONDS)

    async with asyncio.TaskGroup() as calls:
        calls.create_task(poll_metrics())
        due = loop.time()
        while due < stop:
            await asyncio.sleep(max(0.0, due - loop.time()))
            calls.create_task(call_once())
            outcomes.offered += 1
            due += arrivals.expovariate(rate)
    return outcomes


def _count_failure(error: grpc.aio.AioRpcError, outcomes: Outcomes) -> None:
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
    outcomes.refused_without_retry_info += 1


def _metrics_url(log: IO[str]) -> str:
    log.seek(0)
    found = _METRICS_URL.search(log.read())
    if found is None:
        raise RuntimeError("the server's log does not contain the address of its metrics")
    return found[0]


def _admitted_requests(metrics_url: str) -> int:
    with urllib.request.urlopen(metrics_url) as response:
        lines: Iterable[str] = response.read().decode().splitlines()
    return round(next(float(line.split()[1]) for line in lines if line.startswith("poolservice_admitted_requests{")))


def _print(results: dict[str, Any]) -> bool:
    """Print the results. Return True if a target was missed."""
    rows = [
        (
            "goodput over peak",
            f"{results['goodput_over_peak']:.2f}  ({results['goodput']:.0f} of {results['peak_rate']:.0f} calls/s)",
            f"at least {MIN_GOODPUT_OVER_PEAK}",
            results["goodput_over_peak"] >= MIN_GOODPUT_OVER_PEAK,
        ),
        (
            "p99 latency over the queue's bound",
            f"{results['p99_seconds'] / results['queue_seconds']:.2f}  "
            f"({results['p99_seconds']:.2f} s; {QUEUE_REQUESTS} requests take {results['queue_seconds']:.2f} s)",
            f"at most {MAX_LATENCY_OVER_QUEUE:.0f}",
            results["p99_seconds"] <= MAX_LATENCY_OVER_QUEUE * results["queue_seconds"],
        ),
        (
            "requests admitted at a time",
            f"{results['max_admitted_requests']}",
            f"at most {QUEUE_REQUESTS}",
            results["max_admitted_requests"] <= QUEUE_REQUESTS,
        ),
        (
            "peak memory, MB",
            f"{results['peak_mb']:.0f}  ({results['peak_mb_before']:.0f} at peak throughput)",
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
    table = Table(title=f"offered load: {results['offered_rate']:.0f} calls/s, {LOAD_OVER_PEAK:.0f} times the peak")
    for column in ("", "measured", "target", ""):
        table.add_column(column)
    for name, measured, target, met in rows:
        table.add_row(name, measured, target, "[green]met[/green]" if met else "[red]not met[/red]")
    console.print(table)
    console.print(f"load average of the machine: {results['load_average']:.1f}")
    return not all(met for *_, met in rows)


if __name__ == "__main__":
    typer.run(command)
