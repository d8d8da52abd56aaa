"""Fuzz the codec with damaged messages: it must read what protobuf reads and reject what protobuf rejects.

python -m tests.fuzz.messages [--inputs N] [--seed S] [--processes P] [--replay FILE]
"""

from random import Random

from google.protobuf.message import DecodeError
from tests.contract.conftest import encode_randomly, make_message
from tests.contract.test_codec_decoding import DECODERS, assert_reads_same
from tests.fuzz.campaign import Fuzzer, main

from poolservice import codec
from poolservice.errors import InvalidRequest

_NAMES = tuple(DECODERS)


def generate(random: Random) -> bytes:
    """Return the number of a decoder, then a message for it: whole, in another encoding, damaged, or two in one."""
    number = random.randrange(len(_NAMES))
    message_type = DECODERS[_NAMES[number]].message_type
    if random.random() < 0.5:
        raw = encode_randomly(message_type, random)
    else:
        raw = make_message(message_type, random).SerializeToString(deterministic=True)
    if random.random() < 0.1:
        raw += encode_randomly(message_type, random)
    damaged = bytearray(raw)
    for _ in range(random.choice((0, 1, 1, 2, 4))):
        # Payload bytes have no structure, so most damage goes to the start of the message.
        at = random.randint(0, min(len(damaged), random.choice((20, 60, 60, 200, len(damaged)))))
        match random.randrange(4):
            case 0:
                damaged[at : at + random.randint(0, 3)] = random.randbytes(random.randint(0, 3))
            case 1:
                del damaged[at:]
            case 2:
                damaged[at:at] = damaged[at : at + random.randint(1, 16)]
            case _:
                damaged[at : at + 1] = bytes((random.choice((0, 0x7F, 0x80, 0xFF, 0x0A, 0x12, 0x1A, 0x22)),))
    return bytes((number,)) + bytes(damaged)


def check(data: bytes) -> None:
    """Fail unless codec and protobuf read the same message, or both reject it."""
    decoder = DECODERS[_NAMES[data[0]]]
    raw = data[1:]
    try:
        decoder.read(raw)
    except InvalidRequest as error:
        if "everything but the payload's bytes must take at most" in error.reason:
            # protobuf has no such limit. Damage can turn a large payload into an unknown field, which is overhead.
            assert len(raw) > codec.MAX_HEAD_BYTES
            return
    except (codec.MalformedMessage, DecodeError):
        pass  # compared with protobuf below
    assert_reads_same(decoder, raw)


if __name__ == "__main__":
    main(Fuzzer("messages", generate, check, inputs=600_000))
