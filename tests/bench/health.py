"""Measure how long health checks take while the queue of a server is full.

    make bench-health
    python tests/bench/health.py --seconds 20 --callers 400

Callers keep a queue full of requests that take tens of milliseconds each. Beside them, a process of its own checks the
health every 20 ms on its own connection, as a load balancer does. It prints the durations of an idle server first.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from typing import NamedTuple

import grpc
import grpc.aio
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

from poolservice.v1 import pool_pb2 as pb
from poolservice_server.testing import serve

_PAUSE_SECONDS = 0.02
_TIMEOUT_SECONDS = 60.0
_QUEUE_ENTRIES = 128
# What a caller waits after a refusal, as the SDK does.
_BACKOFF_SECONDS = 0.5


class Durations(NamedTuple):
    """Durations of health checks in milliseconds, and how many there were."""

    median: float
    p99: float
    longest: float
    checks: int
    failed: int


def check_health(address: str, seconds: float) -> Durations:
    """Check the health of a server for some time."""
    durations: list[float] = []
    failed = 0
    with grpc.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        health.Check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT_SECONDS)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            started = time.perf_counter()
            response = health.Check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT_SECONDS)
            durations.append(1000 * (time.perf_counter() - started))
            failed += response.status != health_pb2.HealthCheckResponse.SERVING
            time.sleep(_PAUSE_SECONDS)
    median, p99 = np.percentile(durations, (50, 99))
    return Durations(float(median), float(p99), max(durations), len(durations), failed)


def check_in_process(address: str, seconds: float) -> "subprocess.Popen[str]":
    """Start a process that calls `check_health` and prints the outcome as JSON."""
    command = [sys.executable, __file__, "--check", address, "--seconds", str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def slow_request() -> bytes:
    """Return a request for the means of large windows that overlap."""
    planes = np.random.default_rng(7).integers(0, 256, (8, 192, 192), np.uint8)
    spec = pb.PoolSpec(spatial_dims=2, lp_pool=pb.LpPool(norm_type=3.5, kernel_size=[24], stride=[1]))
    tensor = pb.Tensor(dtype=pb.DATA_TYPE_UINT8, shape=planes.shape, data=planes.tobytes())
    return pb.PoolRequest(specs=[spec], tensor=tensor).SerializeToString()


async def fill_queue(address: str, callers: int, done: "asyncio.Future[int]") -> tuple[int, int]:
    """Send slow requests until `done`; return the numbers of responses and refusals."""
    request = slow_request()
    responses = refusals = 0
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(address, options) for _ in range(16)]

    async def call(number: int) -> None:
        nonlocal responses, refusals
        pool: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channels[number % len(channels)].unary_unary(
            "/poolservice.v1.PoolService/Pool"
        )
        while not done.done():
            try:
                await pool(request, timeout=_TIMEOUT_SECONDS)
                responses += 1
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise
                refusals += 1
                await asyncio.sleep(_BACKOFF_SECONDS)

    calls = [asyncio.create_task(call(number)) for number in range(callers)]
    await done
    for one in calls:
        one.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    for channel in channels:
        await channel.close()
    return responses, refusals


async def measure(address: str, callers: int, seconds: float) -> None:
    """Print the durations of health checks without and with load."""
    for count in (0, callers):
        checker = check_in_process(address, seconds)
        done = asyncio.ensure_future(asyncio.to_thread(checker.wait))
        responses, refusals = await fill_queue(address, count, done)
        assert checker.stdout is not None
        durations = Durations(*json.loads(checker.stdout.read()))
        print(
            f"{count:4d} callers: median {durations.median:6.1f} ms, p99 {durations.p99:6.1f} ms, longest "
            f"{durations.longest:6.1f} ms, {durations.checks} checks, {durations.failed} not SERVING; {responses} "
            f"responses, {refusals} refusals because the queue was full"
        )


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long to check (default: %(default)s)")
    parser.add_argument("--callers", type=int, default=300, help="concurrent callers (default: %(default)s)")
    parser.add_argument("--check", metavar="ADDRESS", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.check:
        print(json.dumps(check_health(arguments.check, arguments.seconds)))
        return
    with serve("--device", "cpu", "--max-queue-items", str(_QUEUE_ENTRIES)) as service:
        asyncio.run(measure(service.address, arguments.callers, arguments.seconds))


if __name__ == "__main__":
    main()
