"""PoolResponse on the wire: its execution, and for each spec a small head and the payload bytes of the result.

The classes and the region of a backbone follow.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from google.protobuf.message import DecodeError

from poolservice.codec import payload
from poolservice.codec.joining import join
from poolservice.codec.payload import PayloadKind
from poolservice.codec.wire import (
    MALFORMED_REASON,
    Buffer,
    UnusualLayout,
    encode_varint,
    field_tag,
    read_varint,
    size_of,
)
from poolservice.v1 import pool_pb2

_EXECUTION_TAG = field_tag(pool_pb2.PoolResponse, "execution")
_RESULTS_TAG = field_tag(pool_pb2.PoolResponse, "results")
_TRAILING_TAGS = tuple(field_tag(pool_pb2.PoolResponse, name) for name in ("classes", "region"))
_INDICES_TAG = field_tag(pool_pb2.PoolResult, "indices")
_TENSOR_TAG = field_tag(pool_pb2.PoolResult, "tensor")
_IMAGE_TAG = field_tag(pool_pb2.PoolResult, "image")
_KINDS: dict[int, PayloadKind] = {_TENSOR_TAG: "tensor", _IMAGE_TAG: "image"}
_VALUE_TAGS = {kind: tag for tag, kind in _KINDS.items()}
_ENCODED_EXECUTION_TAG = encode_varint(_EXECUTION_TAG)
_ENCODED_RESULTS_TAG = encode_varint(_RESULTS_TAG)
# The layouts of results without indices.
_LAYOUTS = payload.LayoutCache()


class MalformedMessage(ValueError):
    """The received bytes are not a message of the contract."""


class Value(NamedTuple):
    """A Tensor or Image message whose payload bytes are separated from the rest.

    Attributes:
        kind: "tensor" or "image".
        head: the message without its payload bytes.
        data: the payload bytes: row-major little-endian elements, or a PNG file.
    """

    kind: PayloadKind
    head: bytes
    data: Buffer


class Result(NamedTuple):
    """The result for one spec.

    Attributes:
        value: the pooled tensor or image.
        indices: the positions as a tensor, if the spec has `return_indices`.
    """

    value: Value
    indices: Value | None = None


class Response(NamedTuple):
    """A PoolResponse.

    Attributes:
        execution: where the request ran and where its time went.
        results: one result per spec in the order of the specs; without specs, the output of a backbone.
        classes: the classes that the request asks for.
        region: the part of the image that a backbone saw.
    """

    execution: pool_pb2.Execution
    results: list[Result]
    classes: Sequence[pool_pb2.ClassScore] = ()
    region: pool_pb2.ImageRegion | None = None


def encode_response(
    execution: pool_pb2.Execution,
    results: Sequence[Result],
    classes: Sequence[pool_pb2.ClassScore] = (),
    region: pool_pb2.ImageRegion | None = None,
) -> bytes:
    """Write a PoolResponse, byte for byte as protobuf would write it. Each value is copied once.

    Args:
        execution: where the request ran and where its time went.
        results: the results in the order of the specs. Their data must be contiguous, and their heads laid out as
            protobuf writes them.
        classes: the classes that the request asks for.
        region: the part of the image that a backbone saw.
    """
    encoded_execution = execution.SerializeToString(deterministic=True)
    pieces: list[Buffer] = [_ENCODED_EXECUTION_TAG, encode_varint(len(encoded_execution)), encoded_execution]
    nbytes = 0
    for value, indices in results:
        size = size_of(value.data)
        nbytes += size
        if indices is None:
            pieces += (_encode_result_prefix(value.kind, value.head, size), value.data)
            continue
        indices_size = size_of(indices.data)
        nbytes += indices_size
        indices_prefix = payload.encode_prefix(_INDICES_TAG, "tensor", indices.head, indices_size)
        value_prefix = payload.encode_prefix(_VALUE_TAGS[value.kind], value.kind, value.head, size)
        length = encode_varint(len(indices_prefix) + indices_size + len(value_prefix) + size)
        pieces += (_ENCODED_RESULTS_TAG, length, indices_prefix, indices.data, value_prefix, value.data)
    if classes or region is not None:
        pieces.append(pool_pb2.PoolResponse(classes=classes, region=region).SerializeToString(deterministic=True))
    return join(pieces, nbytes)


def decode_response(message: bytes | memoryview) -> Response:
    """Split a PoolResponse. The values' payload bytes are views of `message`, not copies.

    Args:
        message: the encoded message. A memoryview must have single bytes as items.

    Raises:
        MalformedMessage: `message` is not a PoolResponse, or one of its results has no value.
    """
    try:
        return _split_response(message)
    except (IndexError, UnusualLayout, DecodeError):
        return _parse_response(bytes(message))


# Callers send tensors of few shapes, so a server returns results of few shapes.
@lru_cache(maxsize=1024)
def _encode_result_prefix(kind: PayloadKind, head: bytes, size: int) -> bytes:
    """Write a result without indices, up to the payload bytes of its value."""
    prefix = payload.encode_prefix(_VALUE_TAGS[kind], kind, head, size)
    return _ENCODED_RESULTS_TAG + encode_varint(len(prefix) + size) + prefix


@lru_cache(maxsize=1024)
def _check_head(kind: PayloadKind, head: bytes) -> None:
    """Raise DecodeError if protobuf would reject this head."""
    (pool_pb2.Tensor if kind == "tensor" else pool_pb2.Image).FromString(head)


def _split_response(message: bytes | memoryview) -> Response:
    """Split a message that protobuf wrote."""
    view = memoryview(message)
    end, at = len(message), 0
    if end and message[0] == _EXECUTION_TAG:
        size, at = read_varint(message, 1)
        start, at = at, at + size
        if at > end:
            raise UnusualLayout
        execution = pool_pb2.Execution.FromString(bytes(view[start:at]))
    else:
        execution = pool_pb2.Execution()
    results: list[Result] = []
    while at < end:
        if message[at] != _RESULTS_TAG:
            return Response(execution, results, *_parse_trailing_fields(view[at:]))
        size, start = read_varint(message, at + 1)
        at = start + size
        if at > end:
            raise UnusualLayout
        results.append(_split_result(view, start, at))
    return Response(execution, results)


def _parse_trailing_fields(view: memoryview) -> tuple[Sequence[pool_pb2.ClassScore], pool_pb2.ImageRegion | None]:
    """Return the classes and the region of a response, whose fields `view` starts with."""
    if view[0] not in _TRAILING_TAGS:
        raise UnusualLayout
    rest = pool_pb2.PoolResponse.FromString(bytes(view))
    if rest.results or rest.HasField("execution"):
        raise UnusualLayout
    return _trailing_fields(rest)


def _trailing_fields(
    message: pool_pb2.PoolResponse,
) -> tuple[Sequence[pool_pb2.ClassScore], pool_pb2.ImageRegion | None]:
    return message.classes, message.region if message.HasField("region") else None


def _split_result(view: memoryview, at: int, stop: int) -> Result:
    begin = at
    layout = _LAYOUTS.get(stop - begin)
    if layout is not None and view[begin : begin + len(layout.prefix)] == layout.prefix:
        return Result(Value(layout.kind, layout.head, view[begin + len(layout.prefix) : stop]))
    indices = None
    if at < stop and view[at] == _INDICES_TAG:
        size, start = read_varint(view, at + 1)
        at = start + size
        if at > stop:
            raise UnusualLayout
        indices = _split_value("tensor", view, start, at)
    if at >= stop:
        raise UnusualLayout
    kind = _KINDS.get(view[at])
    size, start = read_varint(view, at + 1)
    if kind is None or start + size != stop:
        raise UnusualLayout
    value = _split_value(kind, view, start, stop)
    if indices is None:
        prefix = bytes(view[begin : stop - size_of(value.data)])
        _LAYOUTS.remember(stop - begin, payload.Layout(prefix, kind, value.head))
    return Result(value, indices)


def _split_value(kind: PayloadKind, view: memoryview, start: int, stop: int) -> Value:
    head_stop, data_start = payload.find_data(kind, view, start, stop)
    head = bytes(view[start:head_stop])
    _check_head(kind, head)
    return Value(kind, head, view[data_start:stop])


def _parse_response(message: bytes) -> Response:
    """Read a message of any layout through the generated classes."""
    try:
        parsed = pool_pb2.PoolResponse.FromString(message)
    except DecodeError:
        raise MalformedMessage(f"this is not a poolservice.v1.PoolResponse message: {MALFORMED_REASON}") from None
    results = []
    for index, result in enumerate(parsed.results):
        kind = result.WhichOneof("value")
        if kind is None:
            raise MalformedMessage(f"results[{index}] has no value, neither a tensor nor an image")
        value = _split_parsed_value(kind, result.tensor if kind == "tensor" else result.image)
        indices = _split_parsed_value("tensor", result.indices) if result.HasField("indices") else None
        results.append(Result(value, indices))
    return Response(parsed.execution, results, *_trailing_fields(parsed))


def _split_parsed_value(kind: PayloadKind, message: pool_pb2.Tensor | pool_pb2.Image) -> Value:
    data = message.data
    message.ClearField("data")
    return Value(kind, message.SerializeToString(deterministic=True), memoryview(data))
