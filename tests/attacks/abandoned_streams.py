"""Start streams with large responses, read a part of the first response, and leave. Again and again.

Each stream that is left must count as cancelled by its caller. An error in the log for each would hide real errors.
"""

import asyncio
import time
import urllib.request

from http2_connection import connect, grpc_message
from poolservice.v1 import pool_pb2 as pb
from target import Target

FLAGS: tuple[str, ...] = ()
BEFORE = "28 to 42 of 50 streams counted as INTERNAL, each with a traceback in the log"

_STREAMS_AT_A_TIME = 10
_REQUESTS = 4
_SIDE = 512


async def attack(target: Target, seconds: float) -> str:
    """Abandon streams until the time is over."""
    end = time.monotonic() + seconds
    abandoned = 0
    while time.monotonic() < end:
        await asyncio.gather(*(_abandon(target) for _ in range(_STREAMS_AT_A_TIME)))
        abandoned += _STREAMS_AT_A_TIME
    counts = _stream_counts(target.metrics_url)
    if "INTERNAL" in counts:
        raise AssertionError(f"the server counts streams that callers left as its own failures: {counts}")
    return f"{abandoned} streams left, counted as {counts}"


async def _abandon(target: Target) -> None:
    spec = pb.PoolSpec(spatial_dims=2, adaptive_avg_pool=pb.AdaptiveAvgPool(output_size=[_SIDE]))
    tensor = pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=[1, 4, 4], data=bytes(64))
    async with connect(target.address) as connection:
        number = connection.call("/poolservice.v1.PoolService/PoolStream")
        for correlation_id in range(_REQUESTS):
            request = pb.PoolStreamRequest(
                correlation_id=correlation_id, request=pb.PoolRequest(specs=[spec], tensor=tensor)
            )
            await connection.send_data(number, grpc_message(request.SerializeToString()))
        # The window is 64 KB, so the server is in the middle of a response of 1 MB when this caller leaves.
        await connection.streams[number].received.wait()


def _stream_counts(metrics_url: str) -> dict[str, int]:
    with urllib.request.urlopen(metrics_url, timeout=10) as response:
        lines = response.read().decode().splitlines()
    prefix = "poolservice_calls_total{"
    return {
        line.split('code="')[1].split('"')[0]: int(float(line.rsplit(" ", 1)[1]))
        for line in lines
        if line.startswith(prefix) and 'method="PoolStream"' in line
    }
