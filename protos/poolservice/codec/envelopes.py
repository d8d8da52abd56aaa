"""Messages that carry whole requests or responses: batches and items of a stream.

What they carry is written and read by its own encoder and decoder. protobuf's limit of nesting is counted from the
request or response within, not from its envelope.
"""

from collections.abc import Sequence

from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status

from poolservice.codec.requests import MAX_HEAD_BYTES, REQUEST_PARTS, Request, bound_overhead, split, taken_apart
from poolservice.codec.responses import MalformedMessage
from poolservice.codec.wire import GARBLED, Buffer, Parts, Unusual, read_varint, size_of, tag, varint
from poolservice.errors import InvalidRequest
from poolservice.v1 import pool_pb2

#: Items of a batch, unless the caller of `decode_batch_request` says otherwise.
MAX_BATCH_ITEMS = 4096

# What all items but their payloads' bytes may take together, where they are not laid out as protobuf writes them.
_MAX_UNUSUAL_BYTES = 16 * MAX_HEAD_BYTES

_REQUESTS = tag(pool_pb2.PoolBatchRequest, "requests")
_RESULTS = tag(pool_pb2.PoolBatchResponse, "results")
_STATUS = tag(pool_pb2.PoolBatchResult, "status")
_RESPONSE = tag(pool_pb2.PoolBatchResult, "response")
# correlation_id is a varint of field 1 both ways.
_CORRELATION_ID = 0x08
_STREAM_REQUEST = tag(pool_pb2.PoolStreamRequest, "request")
_STREAM_STATUS = tag(pool_pb2.PoolStreamResponse, "status")
_STREAM_RESPONSE = tag(pool_pb2.PoolStreamResponse, "response")

_BATCH_PARTS = Parts({_REQUESTS >> 3: REQUEST_PARTS})
_STREAM_PARTS = Parts({_STREAM_REQUEST >> 3: REQUEST_PARTS})

_NO_REQUEST = Request(b"", memoryview(b""))


def encode_batch_request(requests: Sequence[Buffer]) -> bytes:
    """Write a PoolBatchRequest of encoded PoolRequests."""
    opening = varint(_REQUESTS)
    pieces: list[Buffer] = []
    for request in requests:
        pieces += (opening, varint(size_of(request)), request)
    return b"".join(pieces)


def decode_batch_request(message: bytes | memoryview, *, max_items: int = MAX_BATCH_ITEMS) -> list[Request]:
    """Take the items of a PoolBatchRequest apart without copying their payloads' bytes.

    Raises:
        InvalidRequest: it is no PoolBatchRequest message, there are more than `max_items`, or they are laid out in an
            unusual way and their heads take more than 16 MAX_HEAD_BYTES together.
    """
    view = memoryview(message)
    end, at = len(message), 0
    requests: list[Request] = []
    try:
        while at < end:
            if view[at] != _REQUESTS:
                raise Unusual
            size, start = read_varint(view, at + 1)
            at = start + size
            if at > end:
                raise Unusual
            _bound_items(len(requests) + 1, max_items)
            requests.append(split(view[start:at]))
    except (IndexError, Unusual):
        return _decode_unusual_batch(bytes(message), max_items)
    return requests


def encode_batch_response(outcomes: Sequence[tuple[Status, bytes | None]]) -> bytes:
    """Write a PoolBatchResponse: for each item its status and, where that is OK, its encoded PoolResponse."""
    opening = varint(_RESULTS)
    pieces: list[Buffer] = []
    for status, response in outcomes:
        before = _delimited(_STATUS, status.SerializeToString(deterministic=True))
        if response is None:
            pieces += (opening, varint(len(before)), before)
        else:
            before += varint(_RESPONSE) + varint(len(response))
            pieces += (opening, varint(len(before) + len(response)), before, response)
    return b"".join(pieces)


def decode_batch_response(message: bytes | memoryview) -> list[tuple[Status, memoryview | None]]:
    """The outcomes of a PoolBatchResponse: status and encoded PoolResponse, a view of `message`.

    Raises:
        MalformedMessage: it is no PoolBatchResponse message. The responses are left to `decode_response`.
    """
    view = memoryview(message)
    end, at = len(message), 0
    outcomes: list[tuple[Status, memoryview | None]] = []
    try:
        while at < end:
            if view[at] != _RESULTS:
                raise Unusual
            size, start = read_varint(view, at + 1)
            at = start + size
            if at > end:
                raise Unusual
            outcomes.append(_outcome(view[start:at], 0, _STATUS, _RESPONSE))
    except (IndexError, Unusual, DecodeError):
        try:
            parsed = pool_pb2.PoolBatchResponse.FromString(bytes(message))
        except DecodeError:
            raise _malformed("PoolBatchResponse") from None
        return [(result.status, _response(result)) for result in parsed.results]
    return outcomes


def encode_stream_request(correlation_id: int, request: Buffer) -> bytes:
    """Write a PoolStreamRequest around an encoded PoolRequest.

    Args:
        correlation_id: 0 to 2**64 - 1.
        request: the encoded request.
    """
    opening = _identified(correlation_id) + varint(_STREAM_REQUEST) + varint(size_of(request))
    return b"".join((opening, request))


def decode_stream_request(message: bytes | memoryview) -> tuple[int, Request]:
    """The correlation id of a PoolStreamRequest and its request, taken apart without copying the payload's bytes.

    A message without a request gives an empty one, to be refused by its correlation id.

    Raises:
        InvalidRequest: it is no PoolStreamRequest message, or its request has too large a head.
    """
    view = memoryview(message)
    end = len(message)
    try:
        correlation_id, at = _read_identity(view)
        if at == end:
            return correlation_id, _NO_REQUEST
        if view[at] != _STREAM_REQUEST:
            raise Unusual
        size, start = read_varint(view, at + 1)
        if start + size != end:
            raise Unusual
        return correlation_id, split(view[start:])
    except (IndexError, Unusual):
        bound_overhead(view, _STREAM_PARTS, MAX_HEAD_BYTES)
        try:
            parsed = pool_pb2.PoolStreamRequest.FromString(bytes(message))
        except DecodeError:
            raise _invalid("PoolStreamRequest") from None
        return parsed.correlation_id, taken_apart(parsed.request) if parsed.HasField("request") else _NO_REQUEST


def encode_stream_response(correlation_id: int, status: Status, response: bytes | None) -> bytes:
    """Write a PoolStreamResponse: an item's status and, where that is OK, its encoded PoolResponse."""
    opening = _identified(correlation_id) + _delimited(_STREAM_STATUS, status.SerializeToString(deterministic=True))
    if response is None:
        return opening
    return b"".join((opening, varint(_STREAM_RESPONSE), varint(len(response)), response))


def decode_stream_response(message: bytes | memoryview) -> tuple[int, Status, memoryview | None]:
    """The correlation id, status and encoded PoolResponse, a view of `message`, of a PoolStreamResponse.

    Raises:
        MalformedMessage: it is no PoolStreamResponse message. The response is left to `decode_response`.
    """
    view = memoryview(message)
    try:
        correlation_id, at = _read_identity(view)
        return correlation_id, *_outcome(view, at, _STREAM_STATUS, _STREAM_RESPONSE)
    except (IndexError, Unusual, DecodeError):
        try:
            parsed = pool_pb2.PoolStreamResponse.FromString(bytes(message))
        except DecodeError:
            raise _malformed("PoolStreamResponse") from None
        return parsed.correlation_id, parsed.status, _response(parsed)


def _outcome(view: memoryview, at: int, status_tag: int, response_tag: int) -> tuple[Status, memoryview | None]:
    """Status and response from `at` to the end of `view`."""
    end = len(view)
    status = Status()
    if at < end and view[at] == status_tag:
        size, start = read_varint(view, at + 1)
        at = start + size
        if at > end:
            raise Unusual
        if size:
            status.MergeFromString(bytes(view[start:at]))
    if at == end:
        return status, None
    if view[at] != response_tag:
        raise Unusual
    size, start = read_varint(view, at + 1)
    if start + size != end:
        raise Unusual
    return status, view[start:]


def _read_identity(view: memoryview) -> tuple[int, int]:
    """The correlation id at the start of a stream's message, 0 where it is not written, and where it ends."""
    if len(view) and view[0] == _CORRELATION_ID:
        return read_varint(view, 1)
    return 0, 0


def _identified(correlation_id: int) -> bytes:
    if not 0 <= correlation_id < 2**64:
        raise ValueError(f"a correlation id is from 0 to 2**64 - 1; got {correlation_id}")
    return varint(_CORRELATION_ID) + varint(correlation_id) if correlation_id else b""


def _delimited(field_tag: int, content: bytes) -> bytes:
    return varint(field_tag) + varint(len(content)) + content


def _response(holder: pool_pb2.PoolBatchResult | pool_pb2.PoolStreamResponse) -> memoryview | None:
    if not holder.HasField("response"):
        return None
    return memoryview(holder.response.SerializeToString(deterministic=True))


def _decode_unusual_batch(message: bytes, max_items: int) -> list[Request]:
    bound_overhead(message, _BATCH_PARTS, _MAX_UNUSUAL_BYTES)
    try:
        parsed = pool_pb2.PoolBatchRequest.FromString(message)
    except DecodeError:
        raise _invalid("PoolBatchRequest") from None
    _bound_items(len(parsed.requests), max_items)
    return [taken_apart(request) for request in parsed.requests]


def _bound_items(items: int, max_items: int) -> None:
    if items > max_items:
        raise InvalidRequest(f"a batch may hold at most {max_items} items; this one holds more", field="requests")


def _invalid(name: str) -> InvalidRequest:
    return InvalidRequest(f"this is not a poolservice.v1.{name} message: {GARBLED}")


def _malformed(name: str) -> MalformedMessage:
    return MalformedMessage(f"this is not a poolservice.v1.{name} message: {GARBLED}")
