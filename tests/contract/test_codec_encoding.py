"""What the codec writes is what protobuf would write, to the byte."""

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


def written(message: Any) -> bytes:
    raw = message.SerializeToString(deterministic=True)
    assert isinstance(raw, bytes)
    return raw


def value(message: pb.Tensor | pb.Image) -> codec.Value:
    data = message.data
    message.ClearField("data")
    return codec.Value("tensor" if isinstance(message, pb.Tensor) else "image", written(message), data)


@given(random=RANDOMS)
def test_requests(random: Random, message_of: Any) -> None:
    request = message_of(pb.PoolRequest, random)
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
            assert encoder.encode(buffer) == written(request)


@given(random=RANDOMS)
def test_responses(random: Random, message_of: Any) -> None:
    response = message_of(pb.PoolResponse, random)
    response.execution.SetInParent()
    for result in response.results:
        if result.WhichOneof("value") is None:
            result.image.SetInParent()
    raw = written(response)
    results = [
        codec.Result(
            value(result.image if result.WhichOneof("value") == "image" else result.tensor),
            value(result.indices) if result.HasField("indices") else None,
        )
        for result in response.results
    ]
    assert codec.encode_response(response.execution, results) == raw


@given(random=RANDOMS)
def test_batches(random: Random, message_of: Any) -> None:
    batch = message_of(pb.PoolBatchRequest, random)
    assert codec.encode_batch_request([written(request) for request in batch.requests]) == written(batch)
    answer = message_of(pb.PoolBatchResponse, random)
    for result in answer.results:
        result.status.SetInParent()
    outcomes = [
        (result.status, written(result.response) if result.HasField("response") else None) for result in answer.results
    ]
    assert codec.encode_batch_response(outcomes) == written(answer)


@given(random=RANDOMS)
def test_items_of_a_stream(random: Random, message_of: Any) -> None:
    item = message_of(pb.PoolStreamRequest, random)
    item.request.SetInParent()
    assert codec.encode_stream_request(item.correlation_id, written(item.request)) == written(item)
    answer = message_of(pb.PoolStreamResponse, random)
    answer.status.SetInParent()
    response = written(answer.response) if answer.HasField("response") else None
    assert codec.encode_stream_response(answer.correlation_id, answer.status, response) == written(answer)


def test_the_memory_of_an_array_is_written_as_it_lies() -> None:
    array = np.arange(24, dtype="<f4").reshape(2, 3, 4)
    request = pb.PoolRequest(tensor=pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=array.shape))
    raw = codec.RequestEncoder(request).encode(array.data)
    assert codec.decode_request(raw).data == array.tobytes()
    with pytest.raises(TypeError, match="bytes-like"):
        codec.RequestEncoder(request).encode(array[:, ::2].data)
    result = codec.Result(codec.Value("tensor", b"", array.data))
    indexed = codec.Result(result.value, result.value)
    for answer in codec.decode_response(codec.encode_response(pb.Execution(), [result, indexed])).results:
        assert answer.value.data == array.tobytes()


def test_a_head_without_payload_or_with_data_is_refused() -> None:
    with pytest.raises(ValueError, match="needs its payload set"):
        codec.RequestEncoder(pb.PoolRequest())
    with pytest.raises(ValueError, match="must not hold data"):
        codec.RequestEncoder(pb.PoolRequest(image=pb.Image(data=b"GIF")))


def test_the_head_is_copied() -> None:
    head = pb.PoolRequest(image=pb.Image(color_mode=pb.COLOR_MODE_GRAY))
    encoder = codec.RequestEncoder(head)
    head.Clear()
    assert pb.PoolRequest.FromString(encoder.encode(b"GIF")).image.color_mode == pb.COLOR_MODE_GRAY


def test_a_message_past_two_gibibytes_is_refused() -> None:
    # A view of one element that claims to be many: nothing of this size is made.
    huge = np.broadcast_to(np.zeros(1, "u1"), (2**31,)).data
    encoder = codec.RequestEncoder(pb.PoolRequest(tensor=pb.Tensor()))
    with pytest.raises(InvalidRequest, match="2147483648 bytes of payload do not fit into one message"):
        encoder.encode(huge)


@pytest.mark.parametrize("correlation_id", [-1, 2**64])
def test_a_correlation_id_outside_64_bits_is_refused(correlation_id: int) -> None:
    with pytest.raises(ValueError, match=r"from 0 to 2\*\*64 - 1"):
        codec.encode_stream_request(correlation_id, b"")
    with pytest.raises(ValueError, match=r"from 0 to 2\*\*64 - 1"):
        codec.encode_stream_response(correlation_id, Status(), None)
