"""The client of every benchmark: grpc.aio, raw bytes, each call on its own."""

import asyncio
import os
import time
from collections.abc import Iterator, Sequence
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


class Measured(NamedTuple):
    """A stretch of calls.

    Attributes:
        rate: calls a second.
        p50_ms: half of the calls were answered within this.
        p99_ms: 99 of 100 were.
        server_us: the server's CPU time a call, in microseconds.
        client_us: the client's.
        peak_mb: the most resident memory of the server's first process, in MB.
    """

    rate: float
    p50_ms: float
    p99_ms: float
    server_us: float
    client_us: float
    peak_mb: float


@asynccontextmanager
async def calls_to(address: str, *, channels: int = 1) -> Any:
    """The Pool method over so many connections of their own."""
    # Channels with equal options would share one connection.
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    opened = [grpc.aio.insecure_channel(address, options=options) for _ in range(channels)]
    try:
        yield [channel.unary_unary(METHOD) for channel in opened]
    finally:
        for channel in opened:
            await channel.close()


async def closed_loop(
    server: Server, calls: Sequence[Call], request: bytes, *, concurrency: int, seconds: float
) -> Measured:
    """Keep `concurrency` calls under kernel_for for so long, the next as soon as one is answered."""
    await _keep_calling(calls, request, concurrency, _WARM_UP_SECONDS)
    server.forget_peak()
    server_before, client_before = sum(server.cpu_seconds().values()), time.process_time()
    started = time.perf_counter()
    latencies = await _keep_calling(calls, request, concurrency, seconds)
    elapsed = time.perf_counter() - started
    client = time.process_time() - client_before
    used = sum(server.cpu_seconds().values()) - server_before
    done = len(latencies)
    p50, p99 = np.percentile(latencies, (50, 99))
    return Measured(
        done / elapsed, p50 * 1e3, p99 * 1e3, used / done * 1e6, client / done * 1e6, server.peak_bytes() / 1e6
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
    """The items from another one on each time, so that none is always first."""
    return (items[(by + index) % len(items)] for index in range(len(items)))


def load_average() -> float:
    """What else the machine does, as the mean number of runnable processes over the last minute."""
    return os.getloadavg()[0]
