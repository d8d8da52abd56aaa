"""For any bytes, the codec reads what protobuf reads and rejects what protobuf rejects."""

from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

import pytest
from google.protobuf.message import DecodeError, Message
from google.rpc.status_pb2 import Status
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from poolservice import codec
from poolservice.codec import requests
from poolservice.errors import InvalidRequest
from poolservice.v1 import pool_pb2 as pb


class Decoder(NamedTuple):
    """A message type, and a function that reads it with the codec."""

    message_type: type[Message]
    read: Callable[[bytes], Message]


def to_request_message(request: codec.Request) -> pb.PoolRequest:
    message = codec.parse_head(request.head)
    if request.data:
        kind = message.WhichOneof("payload")
        assert kind is not None
        getattr(message, kind).data = bytes(request.data)
    return message


def read_request(raw: bytes) -> Message:
    return to_request_message(codec.decode_request(raw))


def read_batch_request(raw: bytes) -> Message:
    return pb.PoolBatchRequest(requests=[to_request_message(request) for request in codec.decode_batch_request(raw)])


def read_stream_request(raw: bytes) -> Message:
    correlation_id, request = codec.decode_stream_request(raw)
    return pb.PoolStreamRequest(correlation_id=correlation_id, request=to_request_message(request))


def to_value_message(value: codec.Value) -> Any:
    message = (pb.Tensor if value.kind == "tensor" else pb.Image).FromString(value.head)
    message.data = bytes(value.data)
    return message


def read_response(raw: bytes | memoryview) -> pb.PoolResponse:
    response = codec.decode_response(raw)
    results = [
        pb.PoolResult(
            indices=to_value_message(result.indices) if result.indices else None,
            **{result.value.kind: to_value_message(result.value)},
        )
        for result in response.results
    ]
    return pb.PoolResponse(
        execution=response.execution, results=results, classes=response.classes, region=response.region
    )


def parse_response(view: memoryview | None) -> pb.PoolResponse | None:
    return None if view is None else pb.PoolResponse.FromString(view.tobytes())


def read_batch_response(raw: bytes) -> Message:
    outcomes = codec.decode_batch_response(raw)
    return pb.PoolBatchResponse(
        results=[pb.PoolBatchResult(status=status, response=parse_response(view)) for status, view in outcomes]
    )


def read_stream_response(raw: bytes) -> Message:
    correlation_id, status, view = codec.decode_stream_response(raw)
    return pb.PoolStreamResponse(correlation_id=correlation_id, status=status, response=parse_response(view))


DECODERS = {
    "request": Decoder(pb.PoolRequest, read_request),
    "batch request": Decoder(pb.PoolBatchRequest, read_batch_request),
    "stream request": Decoder(pb.PoolStreamRequest, read_stream_request),
    "response": Decoder(pb.PoolResponse, read_response),
    "batch response": Decoder(pb.PoolBatchResponse, read_batch_response),
    "stream response": Decoder(pb.PoolStreamResponse, read_stream_response),
}

RANDOMS = st.randoms(use_true_random=True)

each_decoder = pytest.mark.parametrize("decoder", DECODERS.values(), ids=DECODERS)


def read_by_protobuf(decoder: Decoder, raw: bytes) -> Any:
    """Return what protobuf reads, or None if it rejects the bytes.

    Fields that the codec always returns are set, even if the message does not have them.
    """
    message: Any
    try:
        message = decoder.message_type.FromString(raw)
    except DecodeError:
        return None
    if isinstance(message, pb.PoolResponse):
        if any(result.WhichOneof("value") is None for result in message.results):
            return None
        message.execution.SetInParent()
    elif isinstance(message, pb.PoolBatchResponse):
        for result in message.results:
            result.status.SetInParent()
    elif isinstance(message, pb.PoolStreamResponse):
        message.status.SetInParent()
    elif isinstance(message, pb.PoolStreamRequest):
        message.request.SetInParent()
    return message


def read_by_codec(decoder: Decoder, raw: bytes) -> Any:
    """Return what the codec reads, or None if it rejects the bytes."""
    try:
        return decoder.read(raw)
    except (codec.MalformedMessage, DecodeError):
        return None
    except InvalidRequest as error:
        if "everything but the payload's bytes must take at most" in error.reason:
            # protobuf has no such limit. Damage can turn a large payload into an unknown field, which is overhead.
            assert len(raw) > codec.MAX_HEAD_BYTES
            assume(False)
        return None


def assert_reads_same(decoder: Decoder, raw: bytes) -> None:
    """Fail unless codec and protobuf read the same message, or both reject it."""
    messages = read_by_protobuf(decoder, raw), read_by_codec(decoder, raw)
    for message in messages:
        if message is not None:
            message.DiscardUnknownFields()
    # Encoded messages are compared, since a message with NaN is not equal to itself.
    expected, read = (None if one is None else one.SerializeToString(deterministic=True) for one in messages)
    assert read == expected


@each_decoder
@given(random=RANDOMS)
def test_messages_written_by_protobuf_are_read(decoder: Decoder, random: Random, random_message: Any) -> None:
    assert_reads_same(decoder, random_message(decoder.message_type, random).SerializeToString(deterministic=True))


@each_decoder
@settings(max_examples=500)
@given(random=RANDOMS)
def test_any_encoding_is_read_as_protobuf_reads_it(decoder: Decoder, random: Random, random_encoding: Any) -> None:
    assert_reads_same(decoder, random_encoding(decoder.message_type, random))


@each_decoder
@settings(max_examples=500)
@given(random=RANDOMS)
def test_a_damaged_message_is_read_or_rejected_as_by_protobuf(
    decoder: Decoder, random: Random, random_message: Any
) -> None:
    whole = random_message(decoder.message_type, random).SerializeToString(deterministic=True)
    assert_reads_same(decoder, whole)  # so that the codec has its layout in the cache
    raw = bytearray(whole[: random.choice((None, len(whole) - 1, random.randint(0, len(whole))))])
    for _ in range(random.randint(0, 3)):
        at = random.randint(0, min(len(raw), 60))
        raw[at : at + random.randint(0, 3)] = random.randbytes(random.randint(0, 3))
    assert_reads_same(decoder, bytes(raw))


@each_decoder
@given(raw=st.binary(max_size=40))
@example(raw=b"")
@example(raw=b"\x00\x00")  # field number 0
@example(raw=b"\x0c")  # the end of a group that was not started
@example(raw=b"\x7b\x7c")  # an empty group
@example(raw=b"\x7b\x84\x01")  # a group that ends with the number of another
@example(raw=b"\x0a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00")  # a length that takes too many bytes
@example(raw=b"\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01")  # 2**63, ten bytes
@example(raw=b"\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x02")  # ten bytes and more than 64 bits
@example(raw=b"\x7b" * 99 + b"\x7c" * 99)  # nested as deeply as allowed
@example(raw=b"\x7b" * 101 + b"\x7c" * 101)  # nested more deeply
def test_any_bytes_are_read_or_rejected_as_by_protobuf(decoder: Decoder, raw: bytes) -> None:
    assert_reads_same(decoder, raw)


@given(random=RANDOMS)
def test_the_data_of_a_request_written_by_protobuf_is_not_copied(random: Random, random_message: Any) -> None:
    message = random_message(pb.PoolRequest, random)
    message.tensor.CopyFrom(pb.Tensor(dtype=pb.DATA_TYPE_INT64, shape=[2**63 - 1] * 5, data=bytes(1000)))
    raw = message.SerializeToString(deterministic=True)
    assume(all(spec.ByteSize() < 128 for spec in message.specs))
    assert codec.decode_request(raw).data.obj is raw


def test_the_fields_behind_the_payload_are_part_of_the_head() -> None:
    request = pb.PoolRequest(
        specs=[pb.PoolSpec(spatial_dims=2)],
        tensor=pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=[1, 2, 2], data=b"payload payload."),
        backbone="mobilenet",
        tap="features",
        classification=pb.Classification(top=3, classes=range(100)),
    )
    raw = request.SerializeToString()
    # The second one has a layout that the codec knows.
    for decoded in (codec.decode_request(raw), codec.decode_request(raw)):
        assert bytes(decoded.data) == b"payload payload."
        assert decoded.data.obj is raw
        request.tensor.ClearField("data")
        assert decoded.head == request.SerializeToString()
    other = raw.replace(b"mobilenet", b"resnet_50")
    assert codec.parse_head(codec.decode_request(other).head).backbone == "resnet_50"


@pytest.mark.parametrize("fields", [{}, {"backbone": "net"}])
def test_large_heads_take_no_memory_in_the_codec(fields: dict[str, Any]) -> None:
    def request(specs: int) -> bytes:
        tensor = pb.Tensor(dtype=pb.DATA_TYPE_UINT8, shape=[1, 4], data=b"abcd")
        spec = pb.PoolSpec(spatial_dims=1, max_pool=pb.MaxPool(kernel_size=[1] * 100))
        return pb.PoolRequest(specs=[spec] * specs, tensor=tensor, **fields).SerializeToString()

    layouts = requests._LAYOUTS_WITH_SUFFIX if fields else requests._LAYOUTS
    small, large = request(2), request(30)
    assert [bytes(codec.decode_request(raw).data) for raw in (small, large)] == [b"abcd", b"abcd"]
    assert len(small) in layouts
    assert len(large) not in layouts


def test_fields_behind_the_payload_count_to_the_limit_of_the_head() -> None:
    def request(size: int) -> bytes:
        return pb.PoolRequest(image=pb.Image(data=bytes(100_000)), backbone="x" * size).SerializeToString()

    assert len(codec.decode_request(request(codec.MAX_HEAD_BYTES - 20)).head) <= codec.MAX_HEAD_BYTES
    with pytest.raises(InvalidRequest, match="everything but the payload's bytes must take at most 16384 bytes"):
        codec.decode_request(request(codec.MAX_HEAD_BYTES))


def test_the_data_of_every_message_type_is_a_view_of_it() -> None:
    tensor = pb.Tensor(dtype=pb.DATA_TYPE_UINT8, shape=[1, 300, 300], data=bytes(90_000))
    request = pb.PoolRequest(specs=[pb.PoolSpec(spatial_dims=2)], tensor=tensor)
    response = pb.PoolResponse(results=[pb.PoolResult(indices=tensor, tensor=tensor)])
    raw = request.SerializeToString()
    assert codec.decode_request(raw).data.obj is raw
    batch = codec.encode_batch_request([raw, raw])
    assert [decoded.data.obj for decoded in codec.decode_batch_request(batch)] == [batch, batch]
    stream_request = codec.encode_stream_request(7, raw)
    assert codec.decode_stream_request(stream_request)[1].data.obj is stream_request
    request.backbone = "mobilenet"
    raw = request.SerializeToString()
    assert codec.decode_request(raw).data.obj is raw
    for raw in (response.SerializeToString(), codec.encode_batch_response([(Status(), response.SerializeToString())])):
        view = memoryview(raw) if raw.startswith(b"\x12") else codec.decode_batch_response(raw)[0][1]
        assert view is not None
        ((value, indices),) = codec.decode_response(view).results
        assert indices is not None
        assert all(isinstance(one.data, memoryview) and one.data.obj is raw for one in (value, indices))


def test_requests_that_differ_only_in_their_data_have_equal_heads() -> None:
    def head(**tensor: Any) -> bytes:
        request = pb.PoolRequest(
            specs=[pb.PoolSpec(spatial_dims=2)], tensor=pb.Tensor(dtype=pb.DATA_TYPE_UINT8, **tensor)
        )
        return codec.decode_request(request.SerializeToString()).head

    assert head(shape=[1, 2, 2], data=b"abcd") == head(shape=[1, 2, 2], data=b"efgh")
    assert head(shape=[1, 2, 2], data=b"abcd") == head(shape=[1, 2, 2], data=bytes(100_000))
    assert head(shape=[1, 2, 2], data=b"abcd") != head(shape=[1, 4, 1], data=b"abcd")


@pytest.mark.parametrize(("count", "size"), [(1000, 18_000), (100_000, 65_538)])
def test_too_many_specs_are_refused_with_the_limit_and_their_size(count: int, size: int) -> None:
    spec = pb.PoolSpec(spatial_dims=2, max_pool=pb.MaxPool(kernel_size=[2], stride=[2], padding=[0], dilation=[1]))
    message = pb.PoolRequest(specs=[spec]).SerializeToString() * count
    assert len(message) == 18 * count
    with pytest.raises(
        InvalidRequest, match=f"must take at most 16384 bytes: the specs, .* it takes {size} or more; send fewer specs"
    ):
        codec.decode_request(message)


@pytest.mark.parametrize("raw", [b"\x0a\x00" * 10_000, b"\x10\x00" * 10_000, b"\x1a\x02\x10\x00" * 5_000])
def test_a_request_full_of_small_fields_is_rejected_before_it_is_parsed(raw: bytes) -> None:
    with pytest.raises(InvalidRequest, match="everything but the payload's bytes must take at most 16384 bytes"):
        codec.decode_request(raw)
    with pytest.raises(InvalidRequest, match="must take at most 16384 bytes"):
        codec.decode_stream_request(b"\x08\x80\x00" + codec.encode_stream_request(0, raw))
    with pytest.raises(InvalidRequest, match="must take at most 262144 bytes"):
        codec.decode_batch_request(b"\x78\x00" + codec.encode_batch_request([raw] * 20))


def test_payload_bytes_do_not_count_as_overhead() -> None:
    raw = pb.PoolRequest(image=pb.Image(data=bytes(1_000_000))).SerializeToString() + b"\x78\x00"
    assert len(codec.decode_request(raw).data) == 1_000_000
    assert len(codec.decode_batch_request(codec.encode_batch_request([raw] * 3))) == 3


def test_a_batch_with_too_many_requests_is_rejected() -> None:
    raw = codec.encode_batch_request([b""] * 3)
    assert len(codec.decode_batch_request(raw, max_items=3)) == 3
    for batch in (raw, raw + b"\x78\x00"):
        with pytest.raises(
            InvalidRequest, match=r"^requests: a batch may hold at most 2 requests; this one holds more$"
        ):
            codec.decode_batch_request(batch, max_items=2)


def test_errors_name_the_message() -> None:
    for decode, name in (
        (codec.decode_request, "PoolRequest"),
        (codec.parse_head, "PoolRequest"),
        (codec.decode_batch_request, "PoolBatchRequest"),
        (codec.decode_stream_request, "PoolStreamRequest"),
    ):
        with pytest.raises(InvalidRequest, match=f"^this is not a poolservice.v1.{name} message: ") as caught:
            decode(b"not protobuf")
        assert caught.value.field == ""
    for read, name in (
        (codec.decode_response, "PoolResponse"),
        (codec.decode_batch_response, "PoolBatchResponse"),
        (codec.decode_stream_response, "PoolStreamResponse"),
    ):
        with pytest.raises(codec.MalformedMessage, match=f"^this is not a poolservice.v1.{name} message: "):
            read(b"not protobuf")


def test_a_result_without_a_value_is_rejected() -> None:
    raw = pb.PoolResponse(results=[pb.PoolResult(indices=pb.Tensor(data=b"1"))]).SerializeToString()
    with pytest.raises(codec.MalformedMessage, match=r"^results\[0\] has no value, neither a tensor nor an image$"):
        codec.decode_response(raw)
