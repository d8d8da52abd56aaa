"""Tags, varints and lengths: the parts of protobuf's wire format that the codec reads and writes itself.

Nothing here decides what is valid. A reader that meets any layout but the one that protobuf itself writes raises
`UnusualLayout`, and the generated classes read the message instead.
"""

from typing import TypeAlias

from google.protobuf.message import Message

Buffer: TypeAlias = bytes | bytearray | memoryview

#: protobuf's own limit: the length of a message is an int of 32 bits.
MAX_MESSAGE_BYTES = 2**31 - 1

#: The reason given for a message that protobuf rejects, since protobuf does not say why.
MALFORMED_REASON = "it is damaged, cut short or of another type"

_VARINT, _DELIMITED = 0, 2
# The wire types of fixed size, in bytes. The start and the end of a group have a tag only.
_FIXED_SIZES = {1: 8, 5: 4}


class UnusualLayout(Exception):
    """The message is not laid out as protobuf writes it. It may still be valid."""


def field_tag(message: type[Message], field: str) -> int:
    """Return the tag of a message, string or bytes field whose number is at most 15, so that the tag is one byte."""
    number: int = message.DESCRIPTOR.fields_by_name[field].number
    return number << 3 | _DELIMITED


def encode_varint(value: int) -> bytes:
    """Return `value`, 0 or more, in groups of seven bits, the lowest first."""
    if value < 0x80:
        return _SHORT_VARINTS[value]
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


_SHORT_VARINTS = tuple(bytes((value,)) for value in range(0x80))


def size_of(data: Buffer) -> int:
    """Return the size of a buffer in bytes. len() of a memoryview counts rows instead."""
    return data.nbytes if isinstance(data, memoryview) else len(data)


def read_varint(message: bytes | memoryview, at: int) -> tuple[int, int]:
    """Return the varint at position `at` and the position after it.

    Raises:
        UnusualLayout: the varint is longer than its value needs, or longer than nine bytes.
        IndexError: the message ends within the varint.
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
                raise UnusualLayout
            return value, at + 1
    raise UnusualLayout


class PayloadFields(dict[int, "PayloadFields"]):
    """The fields of a message that hold payload bytes, or messages that do: field number to the fields within.

    A field that maps to an empty PayloadFields holds the payload bytes themselves.
    """


def count_overhead(message: bytes | memoryview, payload_fields: PayloadFields, limit: int) -> int:
    """Count the bytes of a message that are not payload bytes, until the count exceeds `limit`.

    The generated classes need many times the size of a message that is full of small fields. Callers compare this
    count with a limit before they pass a message on to them. A malformed message is counted as far as it can be read;
    the generated classes reject it afterwards.
    """
    counted, pending = 0, [(0, len(message), payload_fields)]
    while pending and counted <= limit:
        at, stop, known_fields = pending.pop()
        while at < stop and counted <= limit:
            start = at
            key, at = _read_any_varint(message, at, stop)
            wire_type = key & 7
            if wire_type == _VARINT:
                _, at = _read_any_varint(message, at, stop)
            elif wire_type == _DELIMITED:
                length, at = _read_any_varint(message, at, stop)
                inner_fields = known_fields.get(key >> 3)
                if inner_fields is not None:
                    counted += at - start
                    start = at + length
                    if inner_fields:
                        pending.append((at, min(start, stop), inner_fields))
                at += length
            else:
                at += _FIXED_SIZES.get(wire_type, 0)
            counted += max(0, min(at, stop) - start)
    return counted


def _read_any_varint(message: bytes | memoryview, at: int, stop: int) -> tuple[int, int]:
    """Return the varint at position `at`, whatever its length, and the position after it."""
    value = shift = 0
    while at < stop and shift < 70:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
    return value, at
