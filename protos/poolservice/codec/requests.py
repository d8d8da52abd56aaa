"""PoolRequest on the wire: a small head and the payload bytes."""

from collections.abc import Sequence
from typing import NamedTuple

from google.protobuf.message import DecodeError

from poolservice.codec import payload
from poolservice.codec.joining import join
from poolservice.codec.payload import PayloadKind
from poolservice.codec.wire import (
    MALFORMED_REASON,
    MAX_MESSAGE_BYTES,
    Buffer,
    PayloadFields,
    UnusualLayout,
    count_overhead,
    encode_varint,
    field_tag,
    read_varint,
    size_of,
)
from poolservice.errors import InvalidRequest
from poolservice.v1 import pool_pb2

#: The limit of a request's head: specs, output options and shape. Sixteen specs with every parameter take at most
#: 1.5 KiB.
MAX_HEAD_BYTES = 16 * 1024

_SPECS_TAG = field_tag(pool_pb2.PoolRequest, "specs")
_OUTPUT_TAG = field_tag(pool_pb2.PoolRequest, "output")
_TENSOR_TAG = field_tag(pool_pb2.PoolRequest, "tensor")
_IMAGE_TAG = field_tag(pool_pb2.PoolRequest, "image")
_KINDS: dict[int, PayloadKind] = {_TENSOR_TAG: "tensor", _IMAGE_TAG: "image"}
_PAYLOAD_TAGS = {kind: tag for tag, kind in _KINDS.items()}

#: The fields of a PoolRequest that hold the payload bytes.
REQUEST_PAYLOAD_FIELDS = PayloadFields({_TENSOR_TAG >> 3: payload.TENSOR_FIELDS, _IMAGE_TAG >> 3: payload.IMAGE_FIELDS})

_LAYOUTS = payload.LayoutCache()


class Request(NamedTuple):
    """A PoolRequest whose payload bytes are separated from the rest.

    Attributes:
        head: the PoolRequest message without its payload bytes. Requests with the same specs, output options, dtype
            and shape have equal heads if their writer lays messages out as protobuf does. The head is at most
            MAX_HEAD_BYTES long. Its content is not validated yet; `parse_head` parses it.
        data: the payload bytes, as a view of the decoded message. Empty if the request has none.
    """

    head: bytes
    data: memoryview


def decode_request(message: bytes | memoryview) -> Request:
    """Split a PoolRequest into head and payload bytes, without copying the payload bytes.

    The content of the specs, the output options and the shape is left to `parse_head`. Any valid PoolRequest is read
    as protobuf reads it, whatever its layout.

    Args:
        message: the encoded message. A memoryview must have single bytes as items.

    Raises:
        InvalidRequest: `message` is not a PoolRequest, or its head is larger than MAX_HEAD_BYTES.
    """
    try:
        return split_request(message)
    except (IndexError, UnusualLayout):
        check_overhead(message, REQUEST_PAYLOAD_FIELDS, MAX_HEAD_BYTES)
        return split_parsed_request(_parse_request(bytes(message)))


def parse_head(head: bytes) -> pool_pb2.PoolRequest:
    """Parse the head of a request.

    Raises:
        InvalidRequest: `head` is not a PoolRequest message.
    """
    return _parse_request(head)


class RequestEncoder:
    """Writes PoolRequests that differ only in their payload bytes.

    Threads may share one.

    Args:
        head: the request with its payload set and the payload's `data` empty. It is copied.

    Raises:
        ValueError: `head` has no payload, or its payload has data.
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
        self._rest = rest.SerializeToString(deterministic=True)
        self._kind: PayloadKind = kind
        self._payload_head = message.SerializeToString(deterministic=True)
        # Tensors of one shape have one size, so the last prefix nearly always fits the next request.
        self._last_prefix = 0, self._encode_prefix(0)

    def encode(self, data: Buffer) -> bytes:
        """Write the message, byte for byte as protobuf would write it.

        Args:
            data: the payload bytes, contiguous.

        Raises:
            InvalidRequest: the message would exceed protobuf's limit of 2 GiB.
        """
        return self.encode_joined((data,))

    def encode_joined(self, pieces: Sequence[Buffer]) -> bytes:
        """Write the message with payload bytes that are given in pieces.

        Args:
            pieces: the parts of the payload bytes in their order, each contiguous.

        Raises:
            InvalidRequest: the message would exceed protobuf's limit of 2 GiB.
        """
        size = sum(map(size_of, pieces))
        last_size, prefix = self._last_prefix
        if size != last_size:
            prefix = self._encode_prefix(size)
            self._last_prefix = size, prefix
        return join((prefix, *pieces), size)

    def _encode_prefix(self, size: int) -> bytes:
        tag = _PAYLOAD_TAGS[self._kind]
        prefix = self._rest + payload.encode_prefix(tag, self._kind, self._payload_head, size)
        if len(prefix) + size > MAX_MESSAGE_BYTES:
            raise InvalidRequest(f"{size} bytes of payload do not fit into one message, which holds 2 GiB at most")
        return prefix


def split_parsed_request(message: pool_pb2.PoolRequest) -> Request:
    """Split a parsed message. This clears its data."""
    kind = message.WhichOneof("payload")
    if kind is None:
        return Request(message.SerializeToString(deterministic=True), payload.NO_DATA)
    holder = message.tensor if kind == "tensor" else message.image
    data = holder.data
    holder.ClearField("data")
    return Request(message.SerializeToString(deterministic=True), memoryview(data))


def split_request(message: bytes | memoryview) -> Request:
    """Split a message that protobuf wrote: fields in order, lengths as short as possible, the payload last.

    Raises:
        UnusualLayout, IndexError: the message has another layout. It may still be valid.
    """
    end, at = len(message), 0
    layout = _LAYOUTS.get(end)
    if layout is not None and message[: len(layout.prefix)] == layout.prefix:
        return Request(layout.head, memoryview(message)[len(layout.prefix) :])
    while at < end and message[at] == _SPECS_TAG and at < MAX_HEAD_BYTES:
        at += 2 + payload.read_short_length(message, at)
    if at < end and message[at] == _OUTPUT_TAG:
        at += 2 + payload.read_short_length(message, at)
    if at == end:
        return Request(bytes(message), payload.NO_DATA)
    kind = _KINDS.get(message[at])
    if kind is None:
        raise UnusualLayout
    length_start = at + 1
    size, start = read_varint(message, length_start)
    if start + size != end:
        raise UnusualLayout
    head_stop, data_start = payload.find_data(kind, message, start, end)
    head = b"".join((message[:length_start], encode_varint(head_stop - start), message[start:head_stop]))
    _LAYOUTS.remember(end, payload.Layout(bytes(message[:data_start]), kind, head))
    return Request(head, memoryview(message)[data_start:])


def check_overhead(message: bytes | memoryview, payload_fields: PayloadFields, limit: int) -> None:
    """Raise InvalidRequest if more than `limit` bytes of a message are not payload bytes."""
    if count_overhead(message, payload_fields, limit) > limit:
        raise InvalidRequest(f"everything but the payload's bytes must take at most {limit} bytes; it takes more")


def _parse_request(message: bytes) -> pool_pb2.PoolRequest:
    try:
        return pool_pb2.PoolRequest.FromString(message)
    except DecodeError:
        raise InvalidRequest(f"this is not a poolservice.v1.PoolRequest message: {MALFORMED_REASON}") from None
