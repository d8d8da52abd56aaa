"""PoolRequest on the wire: a small head and the payload bytes.

The fields of the head are in front of the payload, except those of a backbone, which are behind it.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from google.protobuf.descriptor import FieldDescriptor
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
from poolservice.specs.tensor_parameter import MAX_PARAMETER_BYTES
from poolservice.v1 import pool_pb2

#: The limit of a request's head: specs, output options, shape, backbone and classes, without the values of tensors that
#: are parameters of specs. Sixteen specs with every parameter take at most 1.5 KiB.
MAX_HEAD_BYTES = 16 * 1024
#: The limit of the values of all tensors that are parameters of a request's specs. A single one may take all of it.
MAX_PARAMETERS_BYTES = MAX_PARAMETER_BYTES
_MAX_SPECS_BYTES = MAX_HEAD_BYTES + MAX_PARAMETERS_BYTES
# The size of a head beyond its limit is counted up to this multiple of the limit, for the error.
_MAX_COUNTED = 4

_SPECS_TAG = field_tag(pool_pb2.PoolRequest, "specs")
_OUTPUT_TAG = field_tag(pool_pb2.PoolRequest, "output")
_TENSOR_TAG = field_tag(pool_pb2.PoolRequest, "tensor")
_IMAGE_TAG = field_tag(pool_pb2.PoolRequest, "image")
_KINDS: dict[int, PayloadKind] = {_TENSOR_TAG: "tensor", _IMAGE_TAG: "image"}
_PAYLOAD_TAGS = {kind: tag for tag, kind in _KINDS.items()}
# The fields behind the payload, in protobuf's order.
_TRAILING_TAGS = tuple(field_tag(pool_pb2.PoolRequest, name) for name in ("backbone", "tap", "classification"))


def _tensor_fields(operators: Iterable[FieldDescriptor]) -> PayloadFields:
    """Return the fields of operators that hold the values of tensors."""
    found = PayloadFields()
    for operator in operators:
        parameters = operator.message_type.fields if operator.message_type else ()
        tensors = {one.number: payload.TENSOR_FIELDS for one in parameters if one.message_type is _TENSOR}
        if tensors:
            found[operator.number] = PayloadFields(tensors)
    return found


_TENSOR = pool_pb2.Tensor.DESCRIPTOR
_OPERATORS = pool_pb2.PoolSpec.DESCRIPTOR.oneofs_by_name["operator"].fields
_SPEC_FIELDS = _tensor_fields(_OPERATORS)
# The layers of a sequence are specs, too; they are no sequences themselves.
_SPEC_FIELDS[pool_pb2.PoolSpec.SEQUENTIAL_FIELD_NUMBER] = PayloadFields(
    {pool_pb2.Sequential.LAYERS_FIELD_NUMBER: _tensor_fields(_OPERATORS)}
)

#: The fields of a PoolRequest that hold the payload bytes, and those that hold the values of parameters.
REQUEST_PAYLOAD_FIELDS = PayloadFields(
    {
        _TENSOR_TAG >> 3: payload.TENSOR_FIELDS,
        _IMAGE_TAG >> 3: payload.IMAGE_FIELDS,
        _SPECS_TAG >> 3: _SPEC_FIELDS,
    }
)

# The same without the values of parameters, which count to the specs.
_SPECS_COUNTED = PayloadFields(
    {number: fields for number, fields in REQUEST_PAYLOAD_FIELDS.items() if number != _SPECS_TAG >> 3}
)

_LAYOUTS = payload.LayoutCache()
# The layouts of requests with fields behind the payload. The others are found without comparing a suffix.
_LAYOUTS_WITH_SUFFIX = payload.LayoutCache()


class Request(NamedTuple):
    """A PoolRequest whose payload bytes are separated from the rest.

    Attributes:
        head: the PoolRequest message without its payload bytes. Requests with the same specs, output options, dtype
            and shape have equal heads if their writer lays messages out as protobuf does. Without the values of
            parameters, the head is at most MAX_HEAD_BYTES long. Its content is not validated yet; `parse_head` parses
            it.
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
        InvalidRequest: `message` is not a PoolRequest, or its head is larger than MAX_HEAD_BYTES, or the values of its
            parameters than MAX_PARAMETERS_BYTES.
    """
    try:
        return split_request(message)
    except (IndexError, UnusualLayout):
        check_head(message)
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
        start = pool_pb2.PoolRequest(specs=head.specs)
        if head.HasField("output"):
            start.output.CopyFrom(head.output)
        rest = pool_pb2.PoolRequest()
        rest.CopyFrom(head)
        for field in ("specs", "output", kind):
            rest.ClearField(field)
        self._start = start.SerializeToString(deterministic=True)
        self._suffix = rest.SerializeToString(deterministic=True)
        self._kind: PayloadKind = kind
        self._payload_head = message.SerializeToString(deterministic=True)
        # Tensors of one shape have one size, so the last prefix nearly always fits the next request.
        self._last = 0, self._encode_prefix(0), self._suffix

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
        size = size_of(pieces[0]) if len(pieces) == 1 else sum(map(size_of, pieces))
        last_size, prefix, suffix = self._last
        if size != last_size:
            prefix = self._encode_prefix(size)
            self._last = size, prefix, suffix
        return join((prefix, *pieces, suffix), size)

    def _encode_prefix(self, size: int) -> bytes:
        tag = _PAYLOAD_TAGS[self._kind]
        prefix = self._start + payload.encode_prefix(tag, self._kind, self._payload_head, size)
        if len(prefix) + size + len(self._suffix) > MAX_MESSAGE_BYTES:
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
    """Split a message that protobuf wrote: fields in order, lengths as short as possible.

    Raises:
        UnusualLayout, IndexError: the message has another layout. It may still be valid.
        InvalidRequest: its head or the values of its parameters are too large.
    """
    end, at = len(message), 0
    layout = _LAYOUTS.get(end)
    if layout is not None and message[: len(layout.prefix)] == layout.prefix:
        return Request(layout.head, memoryview(message)[len(layout.prefix) :])
    while at < end and message[at] == _SPECS_TAG and at < _MAX_SPECS_BYTES:
        length = message[at + 1]
        if length < 0x80:
            at += 2 + length
        else:
            length, start = read_varint(message, at + 1)
            at = start + length
    has_parameters = at > MAX_HEAD_BYTES
    if has_parameters:
        # Slices of a view copy nothing.
        message = memoryview(message)
        check_head(message[:at])
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
        return _split_with_suffix(message, kind, length_start, start, start + size)
    head_stop, data_start = payload.find_data(kind, message, start, end)
    head = b"".join((message[:length_start], encode_varint(head_stop - start), message[start:head_stop]))
    if not has_parameters:
        _LAYOUTS.remember(end, payload.Layout(bytes(message[:data_start]), kind, head))
    return Request(head, memoryview(message)[data_start:])


def _split_with_suffix(
    message: bytes | memoryview, kind: PayloadKind, length_start: int, start: int, stop: int
) -> Request:
    """Split a message with fields behind its payload.

    Args:
        message: the encoded message.
        kind: the kind of its payload.
        length_start: the position of the payload's length.
        start: the position of the payload.
        stop: the position behind it.

    Raises:
        UnusualLayout, IndexError: the message has another layout, or a head of more than MAX_HEAD_BYTES.
    """
    end = len(message)
    layout = _LAYOUTS_WITH_SUFFIX.get(end)
    if layout is not None and message[: len(layout.prefix)] == layout.prefix and message[stop:] == layout.suffix:
        return Request(layout.head, memoryview(message)[len(layout.prefix) : stop])
    at = stop
    for tag in _TRAILING_TAGS:
        if at < end and message[at] == tag:
            size, field_start = read_varint(message, at + 1)
            at = field_start + size
    if at != end:
        raise UnusualLayout
    head_stop, data_start = payload.find_data(kind, message, start, stop)
    if head_stop + end - stop > MAX_HEAD_BYTES:
        raise UnusualLayout
    suffix = bytes(message[stop:])
    head = b"".join((message[:length_start], encode_varint(head_stop - start), message[start:head_stop], suffix))
    _LAYOUTS_WITH_SUFFIX.remember(end, payload.Layout(bytes(message[:data_start]), kind, head, suffix))
    return Request(head, memoryview(message)[data_start:stop])


def check_head(message: bytes | memoryview) -> None:
    """Check the size of a request's head, in a message whose payload bytes do not count.

    Raises:
        InvalidRequest: it takes more than MAX_HEAD_BYTES, or the values of its parameters MAX_PARAMETERS_BYTES.
    """
    check_overhead(message, REQUEST_PAYLOAD_FIELDS, MAX_HEAD_BYTES)
    if count_overhead(message, _SPECS_COUNTED, _MAX_SPECS_BYTES) > _MAX_SPECS_BYTES:
        raise InvalidRequest(
            f"may have tensors of {MAX_PARAMETERS_BYTES} bytes in all as parameters; they have more", field="specs"
        )


def check_overhead(message: bytes | memoryview, payload_fields: PayloadFields, limit: int) -> None:
    """Raise InvalidRequest if more than `limit` bytes of a message are not payload bytes."""
    if count_overhead(message, payload_fields, limit) > limit:
        # Counting on is bounded, because a hostile message may be full of small fields.
        counted = count_overhead(message, payload_fields, _MAX_COUNTED * limit)
        raise InvalidRequest(
            f"everything but the payload's bytes must take at most {limit} bytes: the specs, their parameters other "
            f"than tensors, and the options; it takes {counted} or more; send fewer specs, or shorter parameters"
        )


def _parse_request(message: bytes) -> pool_pb2.PoolRequest:
    try:
        return pool_pb2.PoolRequest.FromString(message)
    except DecodeError:
        raise InvalidRequest(f"this is not a poolservice.v1.PoolRequest message: {MALFORMED_REASON}") from None
