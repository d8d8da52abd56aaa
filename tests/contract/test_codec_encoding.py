"""The codec writes every message byte for byte as protobuf would."""

from random import Random
from typing import Any

import numpy as np
import pytest
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st

from poolservice import codec
from poolservice.errors import InvalidRequest
from poolservice.v1 import pool_pb2 as pb

RANDOMS = st.randoms(use_true_random=True)


def encode(message: Any) -> bytes:
    raw = message.SerializeToString(deterministic=True)
    assert isinstance(raw, bytes)
    return raw


def split_value(message: pb.Tensor | pb.Image) -> codec.Value:
    data = message.data
    message.ClearField("data")
    return codec.Value("tensor" if isinstance(message, pb.Tensor) else "image", encode(message), data)


@given(random=RANDOMS)
def test_requests_are_written_as_by_protobuf(random: Random, random_message: Any) -> None:
    request = random_message(pb.PoolRequest, random)
    kind = request.WhichOneof("payload")
    if kind is None:
        request.tensor.SetInParent()
        kind = "tensor"
    head = pb.PoolRequest()
    head.CopyFrom(request)
    getattr(head, kind).ClearField("data")
    encoder = codec.RequestEncoder(head)
    for payload in (getattr(request, kind).data, b"", b"12", b"34", bytes(300)):
        getattr(request, kind).data = payload
        for buffer in (payload, bytearray(payload), memoryview(payload)):
            assert encoder.encode(buffer) == encode(request)


@given(random=RANDOMS)
def test_responses_are_written_as_by_protobuf(random: Random, random_message: Any) -> None:
    response = random_message(pb.PoolResponse, random)
    response.execution.SetInParent()
    for result in response.results:
        if result.WhichOneof("value") is None:
            result.image.SetInParent()
    raw = encode(response)
    results = [
        codec.Result(
            split_value(result.image if result.WhichOneof("value") == "image" else result.tensor),
            split_value(result.indices) if result.HasField("indices") else None,
        )
        for result in response.results
    ]
    region = response.region if response.HasField("region") else None
    assert codec.encode_response(response.execution, results, response.classes, region) == raw


@given(random=RANDOMS)
def test_batches_are_written_as_by_protobuf(random: Random, random_message: Any) -> None:
    request = random_message(pb.PoolBatchRequest, random)
    assert codec.encode_batch_request([encode(one) for one in request.requests]) == encode(request)
    response = random_message(pb.PoolBatchResponse, random)
    for result in response.results:
        result.status.SetInParent()
    outcomes = [
        (result.status, encode(result.response) if result.HasField("response") else None) for result in response.results
    ]
    assert codec.encode_batch_response(outcomes) == encode(response)


@given(random=RANDOMS)
def test_stream_messages_are_written_as_by_protobuf(random: Random, random_message: Any) -> None:
    request = random_message(pb.PoolStreamRequest, random)
    request.request.SetInParent()
    assert codec.encode_stream_request(request.correlation_id, encode(request.request)) == encode(request)
    response = random_message(pb.PoolStreamResponse, random)
    response.status.SetInParent()
    inner = encode(response.response) if response.HasField("response") else None
    assert codec.encode_stream_response(response.correlation_id, response.status, inner) == encode(response)


def test_the_memory_of_a_contiguous_array_is_written() -> None:
    array = np.arange(24, dtype="<f4").reshape(2, 3, 4)
    request = pb.PoolRequest(tensor=pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=array.shape))
    raw = codec.RequestEncoder(request).encode(array.data)
    assert codec.decode_request(raw).data == array.tobytes()
    with pytest.raises(TypeError, match="bytes-like"):
        codec.RequestEncoder(request).encode(array[:, ::2].data)
    result = codec.Result(codec.Value("tensor", b"", array.data))
    indexed = codec.Result(result.value, result.value)
    for decoded in codec.decode_response(codec.encode_response(pb.Execution(), [result, indexed])).results:
        assert decoded.value.data == array.tobytes()


def test_large_messages_are_written_as_by_protobuf() -> None:
    values = np.random.default_rng(7).integers(0, 2**32, 300_000, np.uint32)
    request = pb.PoolRequest(tensor=pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=[3, 100_000]))
    encoder = codec.RequestEncoder(request)
    request.tensor.data = values.tobytes()
    pieces = (values[:100_000].reshape(100, 1000).data, bytearray(), values[100_000:].tobytes())
    assert encoder.encode_joined(pieces) == encoder.encode(values.data) == encode(request)

    tensor = request.tensor
    head = encode(pb.Tensor(dtype=tensor.dtype, shape=tensor.shape))
    value, empty = codec.Value("tensor", head, values.data), codec.Value("tensor", head, b"")
    execution = pb.Execution(batch_size=1)
    empty_tensor = pb.Tensor(dtype=tensor.dtype, shape=tensor.shape)
    for results, expected in (
        ([codec.Result(value)], [pb.PoolResult(tensor=tensor)]),
        ([codec.Result(value, value)], [pb.PoolResult(tensor=tensor, indices=tensor)]),
        (
            [codec.Result(empty), codec.Result(value)],
            [pb.PoolResult(tensor=empty_tensor), pb.PoolResult(tensor=tensor)],
        ),
    ):
        response = pb.PoolResponse(execution=execution, results=expected)
        assert codec.encode_response(execution, results) == encode(response)


def test_a_head_without_payload_or_with_data_is_rejected() -> None:
    with pytest.raises(ValueError, match="needs its payload set"):
        codec.RequestEncoder(pb.PoolRequest())
    with pytest.raises(ValueError, match="must not hold data"):
        codec.RequestEncoder(pb.PoolRequest(image=pb.Image(data=b"GIF")))


def test_the_head_is_copied() -> None:
    head = pb.PoolRequest(image=pb.Image(color_mode=pb.COLOR_MODE_GRAY))
    encoder = codec.RequestEncoder(head)
    head.Clear()
    assert pb.PoolRequest.FromString(encoder.encode(b"GIF")).image.color_mode == pb.COLOR_MODE_GRAY


def test_a_message_of_more_than_2_gib_is_rejected() -> None:
    # A view of one element repeated 2**31 times, which takes no memory.
    huge = np.broadcast_to(np.zeros(1, "u1"), (2**31,)).data
    encoder = codec.RequestEncoder(pb.PoolRequest(tensor=pb.Tensor()))
    with pytest.raises(InvalidRequest, match="2147483648 bytes of payload do not fit into one message"):
        encoder.encode(huge)


@pytest.mark.parametrize("correlation_id", [-1, 2**64])
def test_a_correlation_id_outside_64_bits_is_rejected(correlation_id: int) -> None:
    with pytest.raises(ValueError, match=r"from 0 to 2\*\*64 - 1"):
        codec.encode_stream_request(correlation_id, b"")
    with pytest.raises(ValueError, match=r"from 0 to 2\*\*64 - 1"):
        codec.encode_stream_response(correlation_id, Status(), None)
