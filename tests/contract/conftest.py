"""Random messages of the contract: as protobuf writes them, and in any other encoding.

They are made by a random.Random that hypothesis seeds. hypothesis's own strategies would take a hundred times longer.
"""

import struct
from collections.abc import Callable
from random import Random
from typing import Any, TypeAlias, cast

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

RandomMessage: TypeAlias = Callable[[type[Message], Random], Any]
RandomEncoding: TypeAlias = Callable[[type[Message], Random], bytes]

VARINT, FIXED64, DELIMITED, START_GROUP, END_GROUP, FIXED32 = range(6)

TEXTS = ("", "cpu", "cuda:0", "ß∂", "x" * 130)

VALUES: dict[int, Callable[[Random], Any]] = {
    FieldDescriptor.TYPE_INT32: lambda random: random.choice((0, 3, -1, 2**31 - 1)),
    FieldDescriptor.TYPE_INT64: lambda random: random.choice((0, 1, 2, 224, -1, 2**63 - 1, -(2**63))),
    FieldDescriptor.TYPE_UINT32: lambda random: random.choice((0, 1, 2, 3, 128, 2**32 - 1)),
    FieldDescriptor.TYPE_UINT64: lambda random: random.choice((0, 1, 300, 2**63 - 1, 2**63, 2**64 - 1)),
    FieldDescriptor.TYPE_ENUM: lambda random: random.choice((0, 1, 2, 9, 127, 128, -1)),
    FieldDescriptor.TYPE_BOOL: lambda random: random.random() < 0.5,
    FieldDescriptor.TYPE_DOUBLE: lambda random: random.choice((0.0, -0.0, 0.5, float("nan"), float("inf"))),
    FieldDescriptor.TYPE_FLOAT: lambda random: random.choice((0.0, -0.0, 0.5, float("nan"), float("inf"))),
    FieldDescriptor.TYPE_STRING: lambda random: random.choice(TEXTS),
    FieldDescriptor.TYPE_BYTES: lambda random: random.randbytes(random.choice((0, 1, 8, 127, 128, 20_000))),
}


@pytest.fixture(scope="session")
def random_message() -> RandomMessage:
    """Make a random message of a type, as an object of the generated class."""
    return make_message


@pytest.fixture(scope="session")
def random_encoding() -> RandomEncoding:
    """Make random bytes that are a message of a type or nearly one.

    Fields may be in any order, repeated, unknown or split, and varints may be padded.
    """
    return encode_randomly


def encode_randomly(message_type: type[Message], random: Random) -> bytes:
    return _encode_fields(_descriptor(message_type), random)


def make_message(message_type: type[Message], random: Random) -> Message:
    message = message_type()
    for field in _descriptor(message_type).fields:
        if random.random() < 0.4:
            continue
        values = [_value(field, random) for _ in range(random.randint(0, 3) if field.is_repeated else 1)]
        if field.is_repeated:
            getattr(message, field.name).extend(values)
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(values[0])
            getattr(message, field.name).SetInParent()
        else:
            setattr(message, field.name, values[0])
    return message


def _value(field: FieldDescriptor, random: Random) -> Any:
    if field.message_type is not None:
        return make_message(GetMessageClass(field.message_type), random)
    return VALUES[field.type](random)


def _descriptor(message_type: type[Message]) -> Descriptor:
    # The declared type differs between protobuf's runtimes; both have the same attributes.
    return cast(Descriptor, message_type.DESCRIPTOR)


def _encode_fields(descriptor: Descriptor, random: Random) -> bytes:
    """Encode some fields of a message: more often in order than not, and sometimes an unknown field among them."""
    known = random.choices(descriptor.fields, k=random.randint(0, 5)) if descriptor.fields else []
    if random.random() < 0.6:
        known.sort(key=lambda field: field.number)
    pieces = [_encode_known(field, random) for field in known]
    if random.random() < 0.15:
        number = random.choice((1, 2, 3, 4, 5, 15, 16, 2**29 - 1))
        pieces.insert(random.randint(0, len(pieces)), _encode_unknown(number, random))
    return b"".join(pieces)


def _encode_known(field: FieldDescriptor, random: Random) -> bytes:
    """Encode a field with a value of its type."""
    if field.message_type is not None:
        return _delimited(field.number, _encode_fields(field.message_type, random), random)
    value = VALUES[field.type](random)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return _delimited(field.number, value, random)
    if field.type == FieldDescriptor.TYPE_STRING:
        return _delimited(field.number, random.choice((value.encode(), value.encode(), b"\xff")), random)
    if field.type == FieldDescriptor.TYPE_DOUBLE:
        return _key(field.number, FIXED64) + struct.pack("<d", value)
    if field.type == FieldDescriptor.TYPE_FLOAT:
        return _key(field.number, FIXED32) + struct.pack("<f", value)
    if field.is_repeated and random.random() < 0.8:
        packed = (_padded_varint(VALUES[field.type](random), random) for _ in range(random.choice((0, 1, 3, 30))))
        return _delimited(field.number, b"".join(packed), random)
    return _key(field.number, VARINT) + _padded_varint(value, random)


def _encode_unknown(number: int, random: Random, depth: int = 0) -> bytes:
    """Encode a field of any wire type, a group included, with the given number."""
    match random.randint(0, 4 if depth < 3 else 3):
        case 0:
            return _key(number, VARINT) + _padded_varint(random.getrandbits(64), random)
        case 1:
            return _key(number, FIXED64) + random.randbytes(8)
        case 2:
            return _key(number, FIXED32) + random.randbytes(4)
        case 3:
            return _delimited(number, random.randbytes(random.randint(0, 8)), random)
        case _:
            inner = (_encode_unknown(random.randint(1, 5), random, depth + 1) for _ in range(random.randint(0, 2)))
            return b"".join((_key(number, START_GROUP), *inner, _key(number, END_GROUP)))


def _padded_varint(value: int, random: Random) -> bytes:
    return _varint(value % 2**64, 0 if random.random() < 0.9 else random.randint(1, 3))


def _delimited(number: int, content: bytes, random: Random) -> bytes:
    return _key(number, DELIMITED) + _padded_varint(len(content), random) + content


def _key(number: int, wire_type: int) -> bytes:
    return _varint(number << 3 | wire_type)


def _varint(value: int, padding: int = 0) -> bytes:
    """Encode a varint with `padding` bytes more than it needs, but at most ten bytes."""
    groups = [value >> shift & 0x7F for shift in range(0, max(value.bit_length(), 1), 7)]
    groups += [0] * min(padding, 10 - len(groups))
    return bytes([group | 0x80 for group in groups[:-1]] + groups[-1:])
