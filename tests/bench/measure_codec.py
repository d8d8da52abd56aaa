"""What the codec costs beside the generated classes, in microseconds a message.

python tests/bench/measure_codec.py
"""

import math
from collections.abc import Callable
from timeit import repeat

from poolservice import codec
from poolservice.specs import GlobalAvgPool2d, MaxPool2d, PoolSpec, to_message
from poolservice.v1 import pool_pb2 as pb

FLOAT32 = pb.DATA_TYPE_FLOAT32
WORK: list[tuple[tuple[int, ...], PoolSpec, tuple[int, ...]]] = [
    ((8, 8, 8), GlobalAvgPool2d(), (8, 1, 1)),
    ((512, 7, 7), GlobalAvgPool2d(), (512, 1, 1)),
    ((3, 224, 224), MaxPool2d(2), (3, 112, 112)),
]
ITEMS = 32


def microseconds(call: Callable[[], object]) -> float:
    number = max(10, int(0.02 / min(repeat(call, number=1, repeat=5))))
    return min(repeat(call, number=number, repeat=15)) / number * 1e6


def show(name: str, ours: Callable[[], object], theirs: Callable[[], object]) -> None:
    print(f"{name:40} {microseconds(ours):10.2f} {microseconds(theirs):14.2f}")


def measure(shape: tuple[int, ...], spec: PoolSpec, answer_shape: tuple[int, ...]) -> None:
    data, answer = bytes(4 * math.prod(shape)), bytes(4 * math.prod(answer_shape))
    spec_message = to_message(spec)
    encoder = codec.RequestEncoder(pb.PoolRequest(specs=[spec_message], tensor=pb.Tensor(dtype=FLOAT32, shape=shape)))
    request = encoder.encode(data)
    execution = pb.Execution(device="cpu", batch_size=3, queue_microseconds=33, compute_microseconds=400)
    head = pb.Tensor(dtype=FLOAT32, shape=answer_shape).SerializeToString()
    results = [codec.Result(codec.Value("tensor", head, answer))]
    response = codec.encode_response(execution, results)

    def their_request() -> bytes:
        tensor = pb.Tensor(dtype=FLOAT32, shape=shape, data=data)
        return pb.PoolRequest(specs=[spec_message], tensor=tensor).SerializeToString()

    def their_response() -> bytes:
        tensor = pb.Tensor(dtype=FLOAT32, shape=answer_shape, data=answer)
        return pb.PoolResponse(execution=execution, results=[pb.PoolResult(tensor=tensor)]).SerializeToString()

    print(f"\n{shape}: {len(request)} bytes in, {len(response)} out        codec  generated classes")
    show("encode request", lambda: encoder.encode(data), their_request)
    show(
        "decode request", lambda: codec.decode_request(request), lambda: pb.PoolRequest.FromString(request).tensor.data
    )
    show("encode response", lambda: codec.encode_response(execution, results), their_response)
    show(
        "decode response",
        lambda: codec.decode_response(response),
        lambda: [result.tensor.data for result in pb.PoolResponse.FromString(response).results],
    )
    batch = codec.encode_batch_request([request] * ITEMS)
    show(
        f"decode a batch of {ITEMS} requests",
        lambda: codec.decode_batch_request(batch),
        lambda: [item.tensor.data for item in pb.PoolBatchRequest.FromString(batch).requests],
    )


if __name__ == "__main__":
    for work in WORK:
        measure(*work)
