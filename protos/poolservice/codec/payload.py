"""Tensor and Image messages on the wire: a small head, followed by the payload bytes."""

from typing import Literal, NamedTuple, TypeAlias

from poolservice.codec.wire import PayloadFields, UnusualLayout, encode_varint, field_tag, read_varint
from poolservice.v1 import pool_pb2

#: The name of a payload's field in PoolRequest and PoolResult.
PayloadKind: TypeAlias = Literal["tensor", "image"]

#: The tag in front of the payload bytes in each message.
DATA_TAGS = {"tensor": field_tag(pool_pb2.Tensor, "data"), "image": field_tag(pool_pb2.Image, "data")}

TENSOR_FIELDS, IMAGE_FIELDS = (PayloadFields({tag >> 3: PayloadFields()}) for tag in DATA_TAGS.values())

NO_DATA = memoryview(b"")

# Tensor.dtype and Image.color_mode are both a varint with field number 1.
_ENUM_TAG = 0x08
_SHAPE_TAG = field_tag(pool_pb2.Tensor, "shape")


class Layout(NamedTuple):
    """The prefix of a message, which is everything in front of its payload bytes, and what was read from it.

    Another message of the same length, with the same prefix and the same suffix behind the payload, has the same kind
    and head, so it need not be parsed.
    """

    prefix: bytes
    kind: PayloadKind
    head: bytes
    suffix: bytes = b""


class LayoutCache(dict[int, Layout]):
    """The last layout seen for each message length.

    Callers send tensors of few shapes, so few lengths make up most of the traffic.
    """

    _MAX_LAYOUTS = 256
    # Sixteen specs with every parameter take 1.5 KiB. Callers choose the layouts, so a layout must not be larger.
    _MAX_BYTES = 2048

    def remember(self, length: int, layout: Layout) -> None:
        """Keep the layout of a tensor. Image files vary in length, so their layouts would hardly be used again."""
        if layout.kind == "tensor" and len(layout.prefix) + len(layout.suffix) <= self._MAX_BYTES:
            if len(self) >= self._MAX_LAYOUTS:
                self.clear()
            self[length] = layout


def find_data(kind: PayloadKind, message: bytes | memoryview, at: int, stop: int) -> tuple[int, int]:
    """Find the payload bytes of the Tensor or Image between positions `at` and `stop`.

    Returns:
        The position after the head, and the position of the first payload byte. The payload bytes end at `stop`.

    Raises:
        UnusualLayout, IndexError: the message is not laid out as protobuf writes it.
    """
    if at < stop and message[at] == _ENUM_TAG:
        if message[at + 1] >= 0x80:
            raise UnusualLayout
        at += 2
    if kind == "tensor" and at < stop and message[at] == _SHAPE_TAG:
        at += 2 + read_short_length(message, at)
    if at == stop:
        return at, at
    if message[at] != DATA_TAGS[kind]:
        raise UnusualLayout
    size, start = read_varint(message, at + 1)
    if start + size != stop:
        raise UnusualLayout
    return at, start


def read_short_length(message: bytes | memoryview, at: int) -> int:
    """Return the length of the field whose tag is at position `at`.

    Raises:
        UnusualLayout: the length takes more than one byte.
        IndexError: the message ends before the length.
    """
    length = message[at + 1]
    if length >= 0x80:
        raise UnusualLayout
    return length


def encode_prefix(tag: int, kind: PayloadKind, head: bytes, size: int) -> bytes:
    """Write a Tensor or Image as a field of another message, up to its `size` payload bytes."""
    # protobuf does not write an empty field.
    if size:
        head += encode_varint(DATA_TAGS[kind]) + encode_varint(size)
    return encode_varint(tag) + encode_varint(len(head) + size) + head
