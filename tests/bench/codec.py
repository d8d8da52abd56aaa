"""Measure the codec against protobuf's generated classes, in microseconds per message.

python tests/bench/codec.py
"""

import math
from collections.abc import Callable
from timeit import repeat

from poolservice import codec
from poolservice.specs import GlobalAvgPool2d, MaxPool2d, PoolSpec, to_message
from poolservice.v1 import pool_pb2 as pb

FLOAT32 = pb.DATA_TYPE_FLOAT32
# Request shape, spec, response shape.
JOBS: list[tuple[tuple[int, ...], PoolSpec, tuple[int, ...]]] = [
    ((8, 8, 8), GlobalAvgPool2d(), (8, 1, 1)),
    ((512, 7, 7), GlobalAvgPool2d(), (512, 1, 1)),
    ((3, 224, 224), MaxPool2d(2), (3, 112, 112)),
]
BATCH_ITEMS = 32


def microseconds(function: Callable[[], object]) -> float:
    """Time one call: the best of 15 runs of at least 20 ms each."""
    number = max(10, int(0.02 / min(repeat(function, number=1, repeat=5))))
    return min(repeat(function, number=number, repeat=15)) / number * 1e6


def compare(name: str, by_codec: Callable[[], object], by_protobuf: Callable[[], object]) -> None:
    print(f"{name:40} {microseconds(by_codec):10.2f} {microseconds(by_protobuf):14.2f}")


def measure(shape: tuple[int, ...], spec: PoolSpec, result_shape: tuple[int, ...]) -> None:
    data, result_data = bytes(4 * math.prod(shape)), bytes(4 * math.prod(result_shape))
    spec_message = to_message(spec)
    encoder = codec.RequestEncoder(pb.PoolRequest(specs=[spec_message], tensor=pb.Tensor(dtype=FLOAT32, shape=shape)))
    request = encoder.encode(data)
    execution = pb.Execution(device="cpu", batch_size=3, queue_microseconds=33, compute_microseconds=400)
    head = pb.Tensor(dtype=FLOAT32, shape=result_shape).SerializeToString()
    results = [codec.Result(codec.Value("tensor", head, result_data))]
    response = codec.encode_response(execution, results)

    def protobuf_request() -> bytes:
        tensor = pb.Tensor(dtype=FLOAT32, shape=shape, data=data)
        return pb.PoolRequest(specs=[spec_message], tensor=tensor).SerializeToString()

    def protobuf_response() -> bytes:
        tensor = pb.Tensor(dtype=FLOAT32, shape=result_shape, data=result_data)
        return pb.PoolResponse(execution=execution, results=[pb.PoolResult(tensor=tensor)]).SerializeToString()

    print(f"\n{shape}: request {len(request)} bytes, response {len(response)} bytes        codec  generated classes")
    compare("encode request", lambda: encoder.encode(data), protobuf_request)
    compare(
        "decode request", lambda: codec.decode_request(request), lambda: pb.PoolRequest.FromString(request).tensor.data
    )
    compare("encode response", lambda: codec.encode_response(execution, results), protobuf_response)
    compare(
        "decode response",
        lambda: codec.decode_response(response),
        lambda: [result.tensor.data for result in pb.PoolResponse.FromString(response).results],
    )
    batch = codec.encode_batch_request([request] * BATCH_ITEMS)
    compare(
        f"decode a batch of {BATCH_ITEMS} requests",
        lambda: codec.decode_batch_request(batch),
        lambda: [one.tensor.data for one in pb.PoolBatchRequest.FromString(batch).requests],
    )


if __name__ == "__main__":
    for job in JOBS:
        measure(*job)
