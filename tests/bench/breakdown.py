"""`make bench-breakdown`: the time of one call by step, in process and without gRPC, in microseconds.

parse     splits the message, validates its head or finds it in the cache, and views the payload as an array
decode    decodes an image (on a decoding thread)
queue     from submission to the start of the batch
compute   runs the batch on the device
encode    turns the results into the encoded response
rest      everything else: tasks, futures, hand-over to threads
total     from request message to response message

For the image job, the CPU time of the call on all threads is compared with Pillow's decoding of the same file.
"""

import io
import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop
from PIL import Image
from rich.console import Console
from rich.table import Table

from jobs import Job, make_jobs
from load import load_average
from poolservice import codec
from poolservice.v1 import pool_pb2
from poolservice_server import allocator
from poolservice_server.backend import Backend, choose_backend
from poolservice_server.batcher import Batcher, Completed
from poolservice_server.core.plan import read_head
from poolservice_server.core.service import Call, PoolService
from poolservice_server.stage_cost import calibrate

STEPS = ("parse", "decode", "queue", "compute", "encode", "rest", "total")
MAX_DECODE_CPU = 1.15

_MESSAGE_BYTES = 64 * 2**20
_PIXELS = 50_000_000
_QUEUE_BYTES = 512 * 2**20

console = Console()


def command(
    calls: Annotated[int, typer.Option(help="Calls in each of the rounds.")] = 200,
    rounds: Annotated[int, typer.Option(help="Rounds over all jobs; medians are reported.")] = 7,
    out: Annotated[Path | None, typer.Option("--json", help="Write the results to this file as JSON.")] = None,
) -> None:
    """Measure the steps of one call for each job."""
    allocator.keep_large_messages()
    jobs = make_jobs()
    medians, decode_cpu = uvloop.run(_run(jobs, calls, rounds))
    _print(jobs, medians, decode_cpu)
    if out is not None:
        out.write_text(json.dumps({"microseconds": medians, "decode_cpu_over_pillow": decode_cpu}, indent=2))


async def _run(jobs: list[Job], calls: int, rounds: int) -> tuple[dict[str, dict[str, float]], float]:
    """Return the medians of the steps by job, and the CPU time of the image job's call divided by Pillow's."""
    backend = choose_backend("cpu")
    batcher = Batcher(backend.run, threads=2, inline_bytes=backend.inline_bytes)
    with ThreadPoolExecutor(1) as decode_threads:
        service = PoolService(
            batcher,
            decode_threads,
            pool_pb2.GetServerInfoResponse,
            max_message_bytes=_MESSAGE_BYTES,
            max_image_pixels=_PIXELS,
            max_queue_bytes=_QUEUE_BYTES,
            max_unread_bytes=0,
            max_request_seconds=10.0,
            seconds_per_step=calibrate(),
        )
        steps: dict[str, dict[str, list[float]]] = {}
        decode_cpu: list[float] = []
        for job in jobs:
            job.check(await service.pool(Call(job.request)))
        for _ in range(rounds):
            for job in jobs:
                measured = await _measure(job, service, backend, calls)
                for step, microseconds in measured.items():
                    steps.setdefault(job.name, {}).setdefault(step, []).append(microseconds)
                if measured["decode"]:
                    decode_cpu.append(await _cpu_over_pillow(job, service, calls))
    await batcher.drain()
    medians = {
        job: {step: statistics.median(values) for step, values in by_step.items()} for job, by_step in steps.items()
    }
    return medians, statistics.median(decode_cpu)


def _print(jobs: list[Job], medians: dict[str, dict[str, float]], decode_cpu: float) -> None:
    table = Table(title="one call, in microseconds")
    table.add_column("job")
    for step in STEPS:
        table.add_column(step, justify="right")
    for job in jobs:
        table.add_row(f"{job.name}: {job.title}", *(f"{medians[job.name][step]:.0f}" for step in STEPS))
    console.print(table)
    verdict = "[green]met[/green]" if decode_cpu <= MAX_DECODE_CPU else "[red]not met[/red]"
    console.print(
        f"J2: CPU time from file to response, divided by Pillow's decoding: {decode_cpu:.2f}, "
        f"target at most {MAX_DECODE_CPU} {verdict}"
    )
    console.print(f"load average: {load_average():.1f}")


async def _measure(job: Job, service: PoolService, backend: Backend, calls: int) -> dict[str, float]:
    call = Call(job.request)
    request = codec.decode_request(job.request)
    plan = read_head(request.head).tensor_plan
    seconds = []
    for _ in range(calls):
        started = time.perf_counter()
        encoded = await service.pool(call)
        seconds.append(time.perf_counter() - started)
    total = statistics.median(seconds) * 1e6
    executions = [codec.decode_response(await service.pool(call)).execution for _ in range(calls)]
    response = codec.decode_response(encoded)
    measured = {
        "decode": statistics.median(one.decode_microseconds for one in executions),
        "queue": statistics.median(one.queue_microseconds for one in executions),
        "compute": statistics.median(one.compute_microseconds for one in executions),
        "encode": _time(lambda: codec.encode_response(response.execution, response.results), calls),
    }
    if plan is None:
        measured["parse"] = _time(lambda: read_head(codec.decode_request(job.request).head), calls)
    else:
        measured["parse"] = _time(lambda: _parse(job.request), calls)
        (pooled,) = backend.run(plan.batch_key, [plan.planes_of(request.data)])
        if isinstance(pooled, Exception):
            raise pooled
        completed = Completed(pooled.result, pooled.device, pooled.batch_size, 0.0, 0.0)
        measured["encode"] = _time(lambda: plan.response_builder.encode(completed), calls)
    measured["rest"] = total - sum(measured.values())
    measured["total"] = total
    return measured


def _parse(message: bytes) -> Any:
    request = codec.decode_request(message)
    plan = read_head(request.head).tensor_plan
    return plan and plan.planes_of(request.data)


def _time(step: Callable[[], object], calls: int) -> float:
    seconds = []
    for _ in range(calls):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds) * 1e6


async def _cpu_over_pillow(job: Job, service: PoolService, calls: int) -> float:
    file = bytes(codec.decode_request(job.request).data)
    call = Call(job.request)
    ours = pillows = 0.0
    for _ in range(calls):
        started = time.process_time()
        await service.pool(call)
        ours += time.process_time() - started
        started = time.process_time()
        Image.open(io.BytesIO(file)).load()
        pillows += time.process_time() - started
    return ours / pillows


if __name__ == "__main__":
    typer.run(command)
