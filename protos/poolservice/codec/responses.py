"""PoolResponse on the wire: where it ran, and for each spec a small head and the value's bytes."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from google.protobuf.message import DecodeError

from poolservice.codec import payload
from poolservice.codec.payload import Kind
from poolservice.codec.wire import GARBLED, Buffer, Unusual, read_varint, size_of, tag, varint
from poolservice.v1 import pool_pb2

_EXECUTION = tag(pool_pb2.PoolResponse, "execution")
_RESULTS = tag(pool_pb2.PoolResponse, "results")
_INDICES = tag(pool_pb2.PoolResult, "indices")
_TENSOR = tag(pool_pb2.PoolResult, "tensor")
_IMAGE = tag(pool_pb2.PoolResult, "image")
_KINDS: dict[int, Kind] = {_TENSOR: "tensor", _IMAGE: "image"}
_VALUE_TAGS = {kind: field_tag for field_tag, kind in _KINDS.items()}
_EXECUTION_TAG = varint(_EXECUTION)
_RESULTS_TAG = varint(_RESULTS)
# Of results without indices.
_LAYOUTS = payload.Layouts()


class MalformedMessage(ValueError):
    """What came back is no message of the contract."""


class Value(NamedTuple):
    """A tensor or an image, its bytes apart from the rest.

    Attributes:
        kind: which of the two.
        head: a Tensor or Image message without its bytes.
        data: the bytes: row-major little-endian elements, or a PNG file.
    """

    kind: Kind
    head: bytes
    data: Buffer


class Result(NamedTuple):
    """What one spec gave.

    Attributes:
        value: the result.
        indices: a tensor, where the spec asked for indices.
    """

    value: Value
    indices: Value | None = None


class Response(NamedTuple):
    """A PoolResponse: where and how it ran, and the results in the order of the specs."""

    execution: pool_pb2.Execution
    results: list[Result]


def encode_response(execution: pool_pb2.Execution, results: Sequence[Result]) -> bytes:
    """Write a PoolResponse, byte for byte what protobuf would write, copying each value once.

    Args:
        execution: where and how it ran.
        results: the results in the order of the specs; their data contiguous, their heads as protobuf writes them.
    """
    ran = execution.SerializeToString(deterministic=True)
    pieces: list[Buffer] = [_EXECUTION_TAG, varint(len(ran)), ran]
    for value, indices in results:
        size = size_of(value.data)
        if indices is None:
            pieces += (_result_opening(value.kind, value.head, size), value.data)
            continue
        taken = size_of(indices.data)
        first = payload.opening(_INDICES, "tensor", indices.head, taken)
        second = payload.opening(_VALUE_TAGS[value.kind], value.kind, value.head, size)
        length = varint(len(first) + taken + len(second) + size)
        pieces += (_RESULTS_TAG, length, first, indices.data, second, value.data)
    return b"".join(pieces)


def decode_response(message: bytes | memoryview) -> Response:
    """Take a PoolResponse apart without copying its values' bytes, which are views of `message`.

    Args:
        message: the encoded message; a memoryview must be one of single bytes.

    Raises:
        MalformedMessage: it is no PoolResponse message, or one of its results has no value.
    """
    try:
        return _split(message)
    except (IndexError, Unusual, DecodeError):
        return _taken_apart(bytes(message))


# A service answers in few shapes: those of the layers that its callers cut at.
@lru_cache(maxsize=1024)
def _result_opening(kind: Kind, head: bytes, size: int) -> bytes:
    """A result without indices, up to its value's bytes."""
    opening = payload.opening(_VALUE_TAGS[kind], kind, head, size)
    return _RESULTS_TAG + varint(len(opening) + size) + opening


@lru_cache(maxsize=1024)
def _check(kind: Kind, head: bytes) -> None:
    """Refuse (DecodeError) a head that protobuf would refuse."""
    (pool_pb2.Tensor if kind == "tensor" else pool_pb2.Image).FromString(head)


def _split(message: bytes | memoryview) -> Response:
    """Take apart what protobuf itself writes."""
    view = memoryview(message)
    end, at = len(message), 0
    if end and message[0] == _EXECUTION:
        size, at = read_varint(message, 1)
        start, at = at, at + size
        if at > end:
            raise Unusual
        execution = pool_pb2.Execution.FromString(bytes(view[start:at]))
    else:
        execution = pool_pb2.Execution()
    results = []
    while at < end:
        if message[at] != _RESULTS:
            raise Unusual
        size, start = read_varint(message, at + 1)
        at = start + size
        if at > end:
            raise Unusual
        results.append(_result(view, start, at))
    return Response(execution, results)


def _result(view: memoryview, at: int, stop: int) -> Result:
    begin = at
    layout = _LAYOUTS.get(stop - begin)
    if layout is not None and view[begin : begin + len(layout.before)] == layout.before:
        return Result(Value(layout.kind, layout.head, view[begin + len(layout.before) : stop]))
    indices = None
    if at < stop and view[at] == _INDICES:
        size, start = read_varint(view, at + 1)
        at = start + size
        if at > stop:
            raise Unusual
        indices = _value("tensor", view, start, at)
    if at >= stop:
        raise Unusual
    kind = _KINDS.get(view[at])
    size, start = read_varint(view, at + 1)
    if kind is None or start + size != stop:
        raise Unusual
    value = _value(kind, view, start, stop)
    if indices is None:
        before = bytes(view[begin : stop - size_of(value.data)])
        _LAYOUTS.remember(stop - begin, payload.Layout(before, kind, value.head))
    return Result(value, indices)


def _value(kind: Kind, view: memoryview, start: int, stop: int) -> Value:
    head_stop, data_start = payload.split(kind, view, start, stop)
    head = bytes(view[start:head_stop])
    _check(kind, head)
    return Value(kind, head, view[data_start:stop])


def _taken_apart(message: bytes) -> Response:
    try:
        parsed = pool_pb2.PoolResponse.FromString(message)
    except DecodeError:
        raise MalformedMessage(f"this is not a poolservice.v1.PoolResponse message: {GARBLED}") from None
    results = []
    for number, result in enumerate(parsed.results):
        kind = result.WhichOneof("value")
        if kind is None:
            raise MalformedMessage(f"results[{number}] has no value, neither a tensor nor an image")
        value = _apart(kind, result.tensor if kind == "tensor" else result.image)
        results.append(Result(value, _apart("tensor", result.indices) if result.HasField("indices") else None))
    return Response(parsed.execution, results)


def _apart(kind: Kind, message: pool_pb2.Tensor | pool_pb2.Image) -> Value:
    data = message.data
    message.ClearField("data")
    return Value(kind, message.SerializeToString(deterministic=True), memoryview(data))
