"""A Tensor or an Image on the wire: a small head, and the bytes that come last."""

from typing import Literal, NamedTuple, TypeAlias

from poolservice.codec.wire import Parts, Unusual, read_varint, tag, varint
from poolservice.v1 import pool_pb2

Kind: TypeAlias = Literal["tensor", "image"]

#: The tag in front of the bytes of each.
DATA_TAGS = {"tensor": tag(pool_pb2.Tensor, "data"), "image": tag(pool_pb2.Image, "data")}

TENSOR_PARTS, IMAGE_PARTS = (Parts({data_tag >> 3: Parts()}) for data_tag in DATA_TAGS.values())

NO_DATA = memoryview(b"")

# Tensor.dtype and Image.color_mode are both a varint of field 1.
_ENUM = 0x08
_SHAPE = tag(pool_pb2.Tensor, "shape")


class Layout(NamedTuple):
    """What was read of a message of some length: all that lies before its payload's bytes, and what it meant.

    Another message of that length that begins alike means the same, and is not read again.
    """

    before: bytes
    kind: Kind
    head: bytes


class Layouts(dict[int, Layout]):
    """The last layout of each length of message. Callers cut at few layers, so few lengths make most of the traffic."""

    _MOST = 256

    def remember(self, length: int, layout: Layout) -> None:
        """Keep a layout of tensors; encoded pictures are of every length."""
        if layout.kind == "tensor":
            if len(self) >= self._MOST:
                self.clear()
            self[length] = layout


def split(kind: Kind, message: bytes | memoryview, at: int, stop: int) -> tuple[int, int]:
    """Where the head of the Tensor or Image at `at` to `stop` ends, and where its bytes begin; they end at `stop`.

    Raises:
        Unusual, IndexError: it is not laid out as protobuf writes it.
    """
    if at < stop and message[at] == _ENUM:
        if message[at + 1] >= 0x80:
            raise Unusual
        at += 2
    if kind == "tensor" and at < stop and message[at] == _SHAPE:
        at += 2 + short_length(message, at)
    if at == stop:
        return at, at
    if message[at] != DATA_TAGS[kind]:
        raise Unusual
    size, start = read_varint(message, at + 1)
    if start + size != stop:
        raise Unusual
    return at, start


def short_length(message: bytes | memoryview, at: int) -> int:
    """The length of the field whose tag is at `at`, where it takes one byte; else Unusual."""
    length = message[at + 1]
    if length >= 0x80:
        raise Unusual
    return length


def opening(field_tag: int, kind: Kind, head: bytes, size: int) -> bytes:
    """A Tensor or Image as a field of another message, up to its `size` bytes; no bytes are not written."""
    if size:
        head += varint(DATA_TAGS[kind]) + varint(size)
    return varint(field_tag) + varint(len(head) + size) + head
