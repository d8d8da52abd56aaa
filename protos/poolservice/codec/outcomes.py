"""The status and the response of one request, as PoolBatchResult and PoolStreamResponse hold them."""

from google.rpc.status_pb2 import Status

from poolservice.codec.wire import UnusualLayout, encode_varint, read_varint
from poolservice.v1 import pool_pb2


def encode_status(status_tag: int, status: Status) -> bytes:
    """Write a status as a field of another message."""
    content: bytes = status.SerializeToString(deterministic=True)
    return encode_varint(status_tag) + encode_varint(len(content)) + content


def split_outcome(view: memoryview, at: int, status_tag: int, response_tag: int) -> tuple[Status, memoryview | None]:
    """Read the status and the encoded response, a view, between position `at` and the end of `view`.

    Raises:
        UnusualLayout, IndexError: the fields are not laid out as protobuf writes them.
        DecodeError: the status is malformed.
    """
    end = len(view)
    status = Status()
    if at < end and view[at] == status_tag:
        size, start = read_varint(view, at + 1)
        at = start + size
        if at > end:
            raise UnusualLayout
        if size:
            status.MergeFromString(bytes(view[start:at]))
    if at == end:
        return status, None
    if view[at] != response_tag:
        raise UnusualLayout
    size, start = read_varint(view, at + 1)
    if start + size != end:
        raise UnusualLayout
    return status, view[start:]


def parsed_response(message: pool_pb2.PoolBatchResult | pool_pb2.PoolStreamResponse) -> memoryview | None:
    """Return the encoded response of a parsed message, or None if it has none."""
    if not message.HasField("response"):
        return None
    return memoryview(message.response.SerializeToString(deterministic=True))
