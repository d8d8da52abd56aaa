"""PoolBatchRequest and PoolBatchResponse on the wire.

The requests and responses inside are read and written by their own encoders and decoders. protobuf's nesting limit
therefore counts from the request or response, not from the batch around it.
"""

from collections.abc import Sequence

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

#: The default limit for the number of requests in a batch.
MAX_BATCH_ITEMS = 4096

# The limit for everything but the payload bytes of a batch that is not laid out as protobuf writes it.
_MAX_OVERHEAD_BYTES = 16 * MAX_HEAD_BYTES

_REQUESTS_TAG = field_tag(pool_pb2.PoolBatchRequest, "requests")
_RESULTS_TAG = field_tag(pool_pb2.PoolBatchResponse, "results")
_STATUS_TAG = field_tag(pool_pb2.PoolBatchResult, "status")
_RESPONSE_TAG = field_tag(pool_pb2.PoolBatchResult, "response")
_PAYLOAD_FIELDS = PayloadFields({_REQUESTS_TAG >> 3: REQUEST_PAYLOAD_FIELDS})


def encode_batch_request(requests: Sequence[Buffer]) -> bytes:
    """Write a PoolBatchRequest of encoded PoolRequests."""
    tag = encode_varint(_REQUESTS_TAG)
    pieces: list[Buffer] = []
    for request in requests:
        pieces += (tag, encode_varint(size_of(request)), request)
    return b"".join(pieces)


def decode_batch_request(message: bytes | memoryview, *, max_items: int = MAX_BATCH_ITEMS) -> list[Request]:
    """Split the requests of a PoolBatchRequest, without copying their payload bytes.

    Raises:
        InvalidRequest: `message` is not a PoolBatchRequest; it has more than `max_items` requests; or it is not laid
            out as protobuf writes it and its heads together exceed 16 * MAX_HEAD_BYTES.
    """
    view = memoryview(message)
    end, at = len(message), 0
    requests: list[Request] = []
    try:
        while at < end:
            if view[at] != _REQUESTS_TAG:
                raise UnusualLayout
            size, start = read_varint(view, at + 1)
            at = start + size
            if at > end:
                raise UnusualLayout
            _check_length(len(requests) + 1, max_items)
            requests.append(split_request(view[start:at]))
    except (IndexError, UnusualLayout):
        return _parse_batch_request(bytes(message), max_items)
    return requests


def encode_batch_response(outcomes: Sequence[tuple[Status, bytes | None]]) -> bytes:
    """Write a PoolBatchResponse.

    Args:
        outcomes: for each request its status and, if the status is OK, its encoded PoolResponse.
    """
    tag = encode_varint(_RESULTS_TAG)
    pieces: list[Buffer] = []
    for status, response in outcomes:
        prefix = encode_status(_STATUS_TAG, status)
        if response is None:
            pieces += (tag, encode_varint(len(prefix)), prefix)
        else:
            prefix += encode_varint(_RESPONSE_TAG) + encode_varint(len(response))
            pieces += (tag, encode_varint(len(prefix) + len(response)), prefix, response)
    return b"".join(pieces)


def decode_batch_response(message: bytes | memoryview) -> list[tuple[Status, memoryview | None]]:
    """Split a PoolBatchResponse. The responses themselves are left to `decode_response`.

    Returns:
        For each request its status and its encoded PoolResponse, a view of `message`, or None if it has none.

    Raises:
        MalformedMessage: `message` is not a PoolBatchResponse.
    """
    view = memoryview(message)
    end, at = len(message), 0
    outcomes: list[tuple[Status, memoryview | None]] = []
    try:
        while at < end:
            if view[at] != _RESULTS_TAG:
                raise UnusualLayout
            size, start = read_varint(view, at + 1)
            at = start + size
            if at > end:
                raise UnusualLayout
            outcomes.append(split_outcome(view[start:at], 0, _STATUS_TAG, _RESPONSE_TAG))
    except (IndexError, UnusualLayout, DecodeError):
        return _parse_batch_response(bytes(message))
    return outcomes


def _parse_batch_request(message: bytes, max_items: int) -> list[Request]:
    """Read a message of any layout through the generated classes."""
    check_overhead(message, _PAYLOAD_FIELDS, _MAX_OVERHEAD_BYTES)
    try:
        parsed = pool_pb2.PoolBatchRequest.FromString(message)
    except DecodeError:
        raise InvalidRequest(f"this is not a poolservice.v1.PoolBatchRequest message: {MALFORMED_REASON}") from None
    _check_length(len(parsed.requests), max_items)
    return [split_parsed_request(request) for request in parsed.requests]


def _parse_batch_response(message: bytes) -> list[tuple[Status, memoryview | None]]:
    """Read a message of any layout through the generated classes."""
    try:
        parsed = pool_pb2.PoolBatchResponse.FromString(message)
    except DecodeError:
        raise MalformedMessage(f"this is not a poolservice.v1.PoolBatchResponse message: {MALFORMED_REASON}") from None
    return [(result.status, parsed_response(result)) for result in parsed.results]


def _check_length(length: int, max_items: int) -> None:
    if length > max_items:
        raise InvalidRequest(f"a batch may hold at most {max_items} requests; this one holds more", field="requests")
