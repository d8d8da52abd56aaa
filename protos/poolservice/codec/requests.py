"""PoolRequest on the wire: a small head and the payload's bytes."""

from collections.abc import Sequence
from typing import NamedTuple

from google.protobuf.message import DecodeError

from poolservice.codec import payload
from poolservice.codec.payload import Kind
from poolservice.codec.wire import (
    GARBLED,
    MAX_MESSAGE_BYTES,
    Buffer,
    Parts,
    Unusual,
    overhead,
    read_varint,
    size_of,
    tag,
    varint,
)
from poolservice.errors import InvalidRequest
from poolservice.v1 import pool_pb2

#: What specs, output options and shape may take together. Sixteen specs with every parameter take 1.5 KiB at most.
MAX_HEAD_BYTES = 16 * 1024

_SPECS = tag(pool_pb2.PoolRequest, "specs")
_OUTPUT = tag(pool_pb2.PoolRequest, "output")
_TENSOR = tag(pool_pb2.PoolRequest, "tensor")
_IMAGE = tag(pool_pb2.PoolRequest, "image")
_KINDS: dict[int, Kind] = {_TENSOR: "tensor", _IMAGE: "image"}
_PAYLOAD_TAGS = {kind: field_tag for field_tag, kind in _KINDS.items()}

#: Where a request holds bytes that the head leaves out.
REQUEST_PARTS = Parts({_TENSOR >> 3: payload.TENSOR_PARTS, _IMAGE >> 3: payload.IMAGE_PARTS})

_LAYOUTS = payload.Layouts()


class Request(NamedTuple):
    """A PoolRequest, its payload's bytes apart from the rest.

    Attributes:
        head: a PoolRequest message without them. Two requests of a writer that writes as protobuf does have equal
            heads when they ask for the same thing of payloads of the same type and shape. Its length is bounded
            by MAX_HEAD_BYTES; it is not checked inside: `parse_head` does that.
        data: the payload's bytes, a view of the message that was decoded; empty where there are none.
    """

    head: bytes
    data: memoryview


def decode_request(message: bytes | memoryview) -> Request:
    """Take a PoolRequest apart without copying its payload's bytes.

    What lies inside the specs, the output options and the shape is left to `parse_head`; whatever else a valid
    PoolRequest may look like is read as protobuf reads it.

    Args:
        message: the encoded message; a memoryview must be one of single bytes.

    Raises:
        InvalidRequest: it is no PoolRequest message, or its head is larger than MAX_HEAD_BYTES.
    """
    try:
        return split(message)
    except (IndexError, Unusual):
        bound_overhead(message, REQUEST_PARTS, MAX_HEAD_BYTES)
        return taken_apart(_parsed(bytes(message)))


def parse_head(head: bytes) -> pool_pb2.PoolRequest:
    """The message that a head is.

    Raises:
        InvalidRequest: it is no PoolRequest message.
    """
    return _parsed(head)


class RequestEncoder:
    """Writes PoolRequests that differ in their payload's bytes only.

    Safe to share between threads.

    Args:
        head: the request, its payload set and the payload's `data` empty. It is copied.

    Raises:
        ValueError: the head has no payload, or one with data.
    """

    def __init__(self, head: pool_pb2.PoolRequest) -> None:
        kind = head.WhichOneof("payload")
        if kind is None:
            raise ValueError("the head of a request needs its payload set, with the data left empty")
        message = head.tensor if kind == "tensor" else head.image
        if message.data:
            raise ValueError("the head of a request must not hold data; give it to encode()")
        rest = pool_pb2.PoolRequest()
        rest.CopyFrom(head)
        rest.ClearField(kind)
        self._before = rest.SerializeToString(deterministic=True)
        self._kind: Kind = kind
        self._payload = message.SerializeToString(deterministic=True)
        # The bytes of a tensor have one size as long as its head has one shape.
        self._prepared = 0, self._opening(0)

    def encode(self, data: Buffer) -> bytes:
        """The message, byte for byte what protobuf would write.

        Args:
            data: the payload's bytes, contiguous.

        Raises:
            InvalidRequest: the message would be larger than protobuf allows, 2 GiB.
        """
        return self.encode_joined((data,))

    def encode_joined(self, pieces: Sequence[Buffer]) -> bytes:
        """The message whose payload's bytes are those of all the pieces, one after the other.

        Args:
            pieces: each contiguous.

        Raises:
            InvalidRequest: as for `encode`.
        """
        size = sum(map(size_of, pieces))
        prepared, opening = self._prepared
        if size != prepared:
            opening = self._opening(size)
            self._prepared = size, opening
        return b"".join((opening, *pieces))

    def _opening(self, size: int) -> bytes:
        opening = self._before + payload.opening(_PAYLOAD_TAGS[self._kind], self._kind, self._payload, size)
        if len(opening) + size > MAX_MESSAGE_BYTES:
            raise InvalidRequest(f"{size} bytes of payload do not fit into one message, which holds 2 GiB at most")
        return opening


def taken_apart(message: pool_pb2.PoolRequest) -> Request:
    """The Request of a parsed message, which loses its data."""
    kind = message.WhichOneof("payload")
    if kind is None:
        return Request(message.SerializeToString(deterministic=True), payload.NO_DATA)
    holder = message.tensor if kind == "tensor" else message.image
    data = holder.data
    holder.ClearField("data")
    return Request(message.SerializeToString(deterministic=True), memoryview(data))


def split(message: bytes | memoryview) -> Request:
    """Take apart what protobuf itself writes: fields in order, lengths as short as they can be, the payload last.

    Raises:
        Unusual, IndexError: it is something else, which may be valid.
    """
    end, at = len(message), 0
    layout = _LAYOUTS.get(end)
    if layout is not None and message[: len(layout.before)] == layout.before:
        return Request(layout.head, memoryview(message)[len(layout.before) :])
    while at < end and message[at] == _SPECS and at < MAX_HEAD_BYTES:
        at += 2 + payload.short_length(message, at)
    if at < end and message[at] == _OUTPUT:
        at += 2 + payload.short_length(message, at)
    if at == end:
        return Request(bytes(message), payload.NO_DATA)
    kind = _KINDS.get(message[at])
    if kind is None:
        raise Unusual
    opening_stop = at + 1
    size, start = read_varint(message, opening_stop)
    if start + size != end:
        raise Unusual
    head_stop, data_start = payload.split(kind, message, start, end)
    head = b"".join((message[:opening_stop], varint(head_stop - start), message[start:head_stop]))
    _LAYOUTS.remember(end, payload.Layout(bytes(message[:data_start]), kind, head))
    return Request(head, memoryview(message)[data_start:])


def bound_overhead(message: bytes | memoryview, parts: Parts, limit: int) -> None:
    """Refuse a message of which more than `limit` bytes are not payloads' bytes."""
    if overhead(message, parts, limit) > limit:
        raise InvalidRequest(f"everything but the payload's bytes must take at most {limit} bytes; it takes more")


def _parsed(message: bytes) -> pool_pb2.PoolRequest:
    try:
        return pool_pb2.PoolRequest.FromString(message)
    except DecodeError:
        raise InvalidRequest(f"this is not a poolservice.v1.PoolRequest message: {GARBLED}") from None
