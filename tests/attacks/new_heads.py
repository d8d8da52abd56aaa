"""Many small requests whose heads the server has never seen: 16 specs each, hundreds in one batch.

Validating such a head takes the server 2 ms. All heads of a batch of a thousand arrive in one iteration of the event
loop.
"""

import itertools
import time
from typing import Any

from poolservice.v1 import pool_pb2 as pb
from repeated_calls import repeat_calls
from target import Target

FLAGS: tuple[str, ...] = ()
BEFORE = "health waits for 3.8 s, p99 of good callers 4.0 s; good calls are refused"

_REQUESTS = 1024
_SPECS = 16
_CALLERS = 2


async def attack(target: Target, seconds: float) -> str:
    """Send such batches one after the other from two callers."""
    numbers = itertools.count()
    end = time.monotonic() + seconds

    async def call(stub: Any, _caller: int) -> pb.PoolBatchResponse:
        timeout = max(1.0, end - time.monotonic())
        response: pb.PoolBatchResponse = await stub.PoolBatch(_batch(numbers), timeout=timeout)
        return response

    return await repeat_calls(target, seconds, call, callers=_CALLERS)


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
