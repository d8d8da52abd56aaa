"""Load generation: a grpc.aio client that sends raw bytes, one message per call, without the SDK."""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import grpc
import grpc.aio
import numpy as np

from children import Server

METHOD = "/poolservice.v1.PoolService/Pool"

_WARM_UP_SECONDS = 0.15
_LONGEST_CALL_SECONDS = 60.0

Call = grpc.aio.UnaryUnaryMultiCallable[Any, Any]


class Measurement(NamedTuple):
    """Throughput, latency, CPU time and memory over one measuring interval.

    Attributes:
        rate: calls per second.
        p50_ms: median latency in milliseconds.
        p99_ms: 99th percentile of the latency in milliseconds.
        server_us: CPU time of the server per call, in microseconds.
        client_us: CPU time of the client per call, in microseconds.
        peak_mb: peak resident memory of the server's first process, in MB.
    """

    rate: float
    p50_ms: float
    p99_ms: float
    server_us: float
    client_us: float
    peak_mb: float


@asynccontextmanager
async def calls_to(address: str, *, channels: int = 1) -> Any:
    """Open `channels` separate connections and yield the Pool method of each."""
    # By default, channels with equal options share one connection.
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    opened = [grpc.aio.insecure_channel(address, options=options) for _ in range(channels)]
    try:
        yield [channel.unary_unary(METHOD) for channel in opened]
    finally:
        for channel in opened:
            await channel.close()


async def closed_loop(
    server: Server, calls: Sequence[Call], request: bytes, *, concurrency: int, seconds: float
) -> Measurement:
    """Keep `concurrency` calls in flight for `seconds`: each caller sends the next call when it has its response."""
    await _keep_calling(calls, request, concurrency, _WARM_UP_SECONDS)
    server.reset_peak_memory()
    server_before, client_before = sum(server.cpu_seconds().values()), time.process_time()
    started = time.perf_counter()
    latencies = await _keep_calling(calls, request, concurrency, seconds)
    elapsed = time.perf_counter() - started
    client = time.process_time() - client_before
    used = sum(server.cpu_seconds().values()) - server_before
    return measurement(latencies, elapsed, used, client, server.peak_memory_bytes())


def closed_loop_of_threads(
    server: Server, call: Callable[[], object], *, concurrency: int, seconds: float
) -> Measurement:
    """Keep `concurrency` threads calling for `seconds`."""
    keep_calling(call, concurrency, _WARM_UP_SECONDS)
    server.reset_peak_memory()
    server_before, client_before = sum(server.cpu_seconds().values()), time.process_time()
    started = time.perf_counter()
    latencies = keep_calling(call, concurrency, seconds)
    elapsed = time.perf_counter() - started
    client = time.process_time() - client_before
    used = sum(server.cpu_seconds().values()) - server_before
    return measurement(latencies, elapsed, used, client, server.peak_memory_bytes())


def keep_calling(call: Callable[[], object], threads: int, seconds: float) -> list[float]:
    """Let each of so many threads call again and again for `seconds`; return the latencies of all calls."""
    latencies: list[float] = []
    stop = time.perf_counter() + seconds

    def caller() -> None:
        while (began := time.perf_counter()) < stop:
            call()
            latencies.append(time.perf_counter() - began)

    callers = [threading.Thread(target=caller) for _ in range(threads)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    return latencies


def measurement(
    latencies: Sequence[float], elapsed: float, server_seconds: float, client_seconds: float, peak_bytes: int
) -> Measurement:
    """Return the measurement of the calls of `elapsed` seconds."""
    done = len(latencies)
    p50, p99 = np.percentile(latencies, (50, 99))
    return Measurement(
        done / elapsed, p50 * 1e3, p99 * 1e3, server_seconds / done * 1e6, client_seconds / done * 1e6, peak_bytes / 1e6
    )


async def _keep_calling(calls: Sequence[Call], request: bytes, concurrency: int, seconds: float) -> list[float]:
    latencies: list[float] = []
    stop = time.perf_counter() + seconds

    async def caller(call: Call) -> None:
        while (began := time.perf_counter()) < stop:
            await call(request)
            latencies.append(time.perf_counter() - began)

    async with asyncio.timeout(seconds + _LONGEST_CALL_SECONDS), asyncio.TaskGroup() as callers:
        for number in range(concurrency):
            callers.create_task(caller(calls[number % len(calls)]))
    return latencies


def rotated(items: Sequence[Any], by: int) -> Iterator[Any]:
    """Return the items rotated by `by`, so that each round starts with another one."""
    return (items[(by + index) % len(items)] for index in range(len(items)))


def load_average() -> float:
    """Return the mean number of runnable processes on the machine over the last minute."""
    return os.getloadavg()[0]
