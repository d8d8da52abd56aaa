"""The pieces of protobuf's wire format that the codec writes and reads by hand: tags, varints, lengths.

Nothing here decides what is valid. A reader that meets anything but the layout that protobuf itself writes raises
`Unusual`, and the generated classes read the message instead.
"""

from typing import TypeAlias

from google.protobuf.message import Message

Buffer: TypeAlias = bytes | bytearray | memoryview

#: protobuf's own limit: the length of a message is an int of 32 bits.
MAX_MESSAGE_BYTES = 2**31 - 1

#: What is said of a message that protobuf refuses, which does not say why.
GARBLED = "it is garbled, cut short, or something else"

_VARINT, _DELIMITED = 0, 2
# The wire types of fixed size; a group's start and end are their tags only.
_FIXED = {1: 8, 5: 4}


class Unusual(Exception):
    """The message is not laid out as protobuf writes it; it may still be valid."""


def tag(message: type[Message], field: str) -> int:
    """The byte in front of a message, string or bytes field of a number up to 15."""
    number: int = message.DESCRIPTOR.fields_by_name[field].number
    return number << 3 | _DELIMITED


def varint(value: int) -> bytes:
    """`value`, 0 or more, in groups of seven bits, the lowest first."""
    if value < 0x80:
        return _SHORT[value]
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


_SHORT = tuple(bytes((value,)) for value in range(0x80))


def size_of(data: Buffer) -> int:
    """The bytes of a buffer; a memoryview's len() counts rows."""
    return data.nbytes if isinstance(data, memoryview) else len(data)


def read_varint(message: bytes | memoryview, at: int) -> tuple[int, int]:
    """The varint at `at`, and where it ends.

    Raises:
        Unusual: it is longer than its value needs, or longer than nine bytes.
        IndexError: the message ends within it.
    """
    byte = message[at]
    if byte < 0x80:
        return byte, at + 1
    value = byte & 0x7F
    for shift in range(7, 63, 7):
        at += 1
        byte = message[at]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if byte == 0:
                raise Unusual
            return value, at + 1
    raise Unusual


class Parts(dict[int, "Parts"]):
    """Which fields of a message hold a payload's bytes, or messages with such fields: field number to parts.

    A field without parts of its own is a payload's bytes.
    """


def overhead(message: bytes | memoryview, parts: Parts, limit: int) -> int:
    """How many bytes of a message are not a payload's bytes, counted until `limit` is passed.

    The generated classes make many times its size of a message that is full of small fields, so what they are
    given is bounded by this. What is malformed is counted as far as it can be read: they refuse it there.
    """
    counted, unread = 0, [(0, len(message), parts)]
    while unread and counted <= limit:
        at, stop, known = unread.pop()
        while at < stop and counted <= limit:
            start = at
            key, at = _any_varint(message, at, stop)
            kind = key & 7
            if kind == _VARINT:
                _, at = _any_varint(message, at, stop)
            elif kind == _DELIMITED:
                length, at = _any_varint(message, at, stop)
                field = known.get(key >> 3)
                if field is not None:
                    counted += at - start
                    start = at + length
                    if field:
                        unread.append((at, min(start, stop), field))
                at += length
            else:
                at += _FIXED.get(kind, 0)
            counted += max(0, min(at, stop) - start)
    return counted


def _any_varint(message: bytes | memoryview, at: int, stop: int) -> tuple[int, int]:
    """The varint at `at`, as short or long as it may be, and where it ends."""
    value = shift = 0
    while at < stop and shift < 70:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
    return value, at
