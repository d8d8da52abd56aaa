"""PoolStreamRequest and PoolStreamResponse on the wire.

The requests and responses inside are read and written by their own encoders and decoders. protobuf's nesting limit
therefore counts from the request or response, not from the stream message around it.
"""

from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status

from poolservice.codec.outcomes import encode_status, parsed_response, split_outcome
from poolservice.codec.requests import (
    MAX_HEAD_BYTES,
    REQUEST_PAYLOAD_FIELDS,
    Request,
    check_overhead,
    split_parsed_request,
    split_request,
)
from poolservice.codec.responses import MalformedMessage
from poolservice.codec.wire import (
    MALFORMED_REASON,
    Buffer,
    PayloadFields,
    UnusualLayout,
    encode_varint,
    field_tag,
    read_varint,
    size_of,
)
from poolservice.errors import InvalidRequest
from poolservice.v1 import pool_pb2

# correlation_id is a varint with field number 1 in both messages.
_CORRELATION_ID_TAG = 0x08
_REQUEST_TAG = field_tag(pool_pb2.PoolStreamRequest, "request")
_STATUS_TAG = field_tag(pool_pb2.PoolStreamResponse, "status")
_RESPONSE_TAG = field_tag(pool_pb2.PoolStreamResponse, "response")
_PAYLOAD_FIELDS = PayloadFields({_REQUEST_TAG >> 3: REQUEST_PAYLOAD_FIELDS})

_EMPTY_REQUEST = Request(b"", memoryview(b""))


def encode_stream_request(correlation_id: int, request: Buffer) -> bytes:
    """Write a PoolStreamRequest.

    Args:
        correlation_id: 0 to 2**64 - 1.
        request: the encoded PoolRequest.

    Raises:
        ValueError: `correlation_id` is out of range.
    """
    prefix = _encode_correlation_id(correlation_id) + encode_varint(_REQUEST_TAG) + encode_varint(size_of(request))
    return b"".join((prefix, request))


def decode_stream_request(message: bytes | memoryview) -> tuple[int, Request]:
    """Split a PoolStreamRequest, without copying the payload bytes.

    Returns:
        The correlation id and the request. If the message has no request, the request is empty, so that the caller
        can reject it under its correlation id.

    Raises:
        InvalidRequest: `message` is not a PoolStreamRequest, or the head of its request exceeds MAX_HEAD_BYTES.
    """
    view = memoryview(message)
    end = len(message)
    try:
        correlation_id, at = _read_correlation_id(view)
        if at == end:
            return correlation_id, _EMPTY_REQUEST
        if view[at] != _REQUEST_TAG:
            raise UnusualLayout
        size, start = read_varint(view, at + 1)
        if start + size != end:
            raise UnusualLayout
        return correlation_id, split_request(view[start:])
    except (IndexError, UnusualLayout):
        check_overhead(view, _PAYLOAD_FIELDS, MAX_HEAD_BYTES)
        return _parse_stream_request(bytes(message))


def encode_stream_response(correlation_id: int, status: Status, response: bytes | None) -> bytes:
    """Write a PoolStreamResponse.

    Args:
        correlation_id: that of the request, 0 to 2**64 - 1.
        status: the status of the request.
        response: the encoded PoolResponse if the status is OK, else None.

    Raises:
        ValueError: `correlation_id` is out of range.
    """
    prefix = _encode_correlation_id(correlation_id) + encode_status(_STATUS_TAG, status)
    if response is None:
        return prefix
    return b"".join((prefix, encode_varint(_RESPONSE_TAG), encode_varint(len(response)), response))


def decode_stream_response(message: bytes | memoryview) -> tuple[int, Status, memoryview | None]:
    """Split a PoolStreamResponse. The response itself is left to `decode_response`.

    Returns:
        The correlation id, the status, and the encoded PoolResponse, a view of `message`, or None if it has none.

    Raises:
        MalformedMessage: `message` is not a PoolStreamResponse.
    """
    view = memoryview(message)
    try:
        correlation_id, at = _read_correlation_id(view)
        return correlation_id, *split_outcome(view, at, _STATUS_TAG, _RESPONSE_TAG)
    except (IndexError, UnusualLayout, DecodeError):
        return _parse_stream_response(bytes(message))


def _encode_correlation_id(correlation_id: int) -> bytes:
    if not 0 <= correlation_id < 2**64:
        raise ValueError(f"a correlation id is from 0 to 2**64 - 1; got {correlation_id}")
    return encode_varint(_CORRELATION_ID_TAG) + encode_varint(correlation_id) if correlation_id else b""


def _read_correlation_id(view: memoryview) -> tuple[int, int]:
    """Return the correlation id at the start of a message, 0 if it is not written, and the position after it."""
    if len(view) and view[0] == _CORRELATION_ID_TAG:
        return read_varint(view, 1)
    return 0, 0


def _parse_stream_request(message: bytes) -> tuple[int, Request]:
    """Read a message of any layout through the generated classes."""
    try:
        parsed = pool_pb2.PoolStreamRequest.FromString(message)
    except DecodeError:
        raise InvalidRequest(f"this is not a poolservice.v1.PoolStreamRequest message: {MALFORMED_REASON}") from None
    request = split_parsed_request(parsed.request) if parsed.HasField("request") else _EMPTY_REQUEST
    return parsed.correlation_id, request


def _parse_stream_response(message: bytes) -> tuple[int, Status, memoryview | None]:
    """Read a message of any layout through the generated classes."""
    try:
        parsed = pool_pb2.PoolStreamResponse.FromString(message)
    except DecodeError:
        raise MalformedMessage(f"this is not a poolservice.v1.PoolStreamResponse message: {MALFORMED_REASON}") from None
    return parsed.correlation_id, parsed.status, parsed_response(parsed)
