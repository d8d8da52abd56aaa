"""Many small requests whose heads the server has never seen: 16 specs each, hundreds in one batch.

Validating such a head takes the server 2 ms. All heads of a batch of a thousand arrive in one iteration of the event
loop.
"""

import asyncio
import itertools
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
BEFORE = "health waits for 3.8 s, p99 of good callers 4.0 s; good calls are refused"

_REQUESTS = 1024
_SPECS = 16
_CALLERS = 2


async def attack(target: Target, seconds: float) -> str:
    """Send such batches one after the other from two callers."""
    until = time.monotonic() + seconds
    statuses: Counter[str] = Counter()
    numbers = itertools.count()
    async with grpc.aio.insecure_channel(target.address) as channel:
        stub: Any = PoolServiceStub(channel)

        async def call() -> None:
            while time.monotonic() < until:
                try:
                    batch = await stub.PoolBatch(_batch(numbers), timeout=max(1.0, until - time.monotonic()))
                except grpc.aio.AioRpcError as error:
                    statuses[error.code().name] += 1
                    await asyncio.sleep(0.01)
                else:
                    statuses.update(f"{code_pb2.Code.Name(result.status.code)} in a batch" for result in batch.results)

        await asyncio.gather(*(call() for _ in range(_CALLERS)))
    return ", ".join(f"{count} {status}" for status, count in sorted(statuses.items()))


def _batch(numbers: "itertools.count[int]") -> pb.PoolBatchRequest:
    return pb.PoolBatchRequest(requests=[_request(next(numbers)) for _ in range(_REQUESTS)])


def _request(number: int) -> pb.PoolRequest:
    # The divisor is new each time, and changes nothing else.
    specs = [
        pb.PoolSpec(
            spatial_dims=2,
            avg_pool=pb.AvgPool(kernel_size=[2], divisor_override=1 + number * _SPECS + index),
        )
        for index in range(_SPECS)
    ]
    tensor = pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=[1, 8, 8], data=bytes(4 * 8 * 8))
    return pb.PoolRequest(specs=specs, tensor=tensor)
