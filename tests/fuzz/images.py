"""Fuzz the decoding of images with damaged PNG, JPEG, GIF, BMP, TIFF and WebP files.

    python -m tests.fuzz.images [--inputs N] [--seed S] [--processes P] [--replay FILE]

Each file must be decoded to planes of the size that its header declares, or refused with an InvalidRequest. A file that
Pillow refuses, or a PNG whose compressed pixels are damaged, must be refused. Neither may take much memory or time.
"""

import struct
import warnings
import zlib
from collections.abc import Iterator
from functools import cache
from io import BytesIO
from pathlib import Path
from random import Random

import matplotlib
import numpy as np
from PIL import Image
from tests.fuzz.campaign import Fuzzer, main
from tests.unit.images.conftest import variants_of

from poolservice.errors import InvalidRequest
from poolservice_server.images import ColorMode, decode, scan

_MAX_PIXELS = 2**22
# Three of Pillow's images of a single column, each with four bytes and a pointer per row, and what the decoders keep.
_MEMORY_BYTES = 36 * _MAX_PIXELS + 64 * 2**20
_MODES: tuple[ColorMode, ...] = ("RGB", "GRAY", "RGBA")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


@cache
def _files() -> tuple[bytes, ...]:
    photograph = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    image = Image.open(BytesIO(photograph.read_bytes()))
    sizes = ((67, 45), (16, 16), (1, 3))
    return tuple(file for size in sizes for file in variants_of(image.resize(size)).values())


def generate(random: Random) -> bytes:
    """Return the number of a color mode, then a damaged file."""
    file = bytearray(random.choice(_files()))
    for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
        # Headers decide what is read, so half of the damage is there.
        at = random.randrange(random.choice((64, 512, len(file), len(file))))
        match random.randrange(8):
            case 0 | 1 | 2:
                file[at : at + 1] = bytes((random.choice((random.randrange(256), 0, 0xFF)),))
            case 3:
                size = random.choice((1, 2, 4))
                value = random.choice(_EXTREMES) % 256**size
                file[at : at + size] = value.to_bytes(size, random.choice(("little", "big")))
            case 4:
                del file[at : at + random.randint(1, 40)]
            case 5:
                start = random.randrange(len(file) + 1)
                file[at:at] = file[start : start + random.randint(1, 200)]
            case 6:
                other = random.choice(_files())
                file[at:] = other[random.randrange(len(other)) :]
            case _:
                if random.random() < 0.3:
                    del file[at:]
        if not file:
            break
    if file.startswith(_PNG_SIGNATURE) and random.random() < 0.7:
        file = bytearray(_with_checksums(bytes(file)))
    return bytes((random.randrange(len(_MODES)),)) + bytes(file)


def check(data: bytes) -> None:
    """Fail unless the file is refused, or decoded as its header says and Pillow does not object."""
    mode, file = _MODES[data[0]], data[1:]
    planes = _decode(file, mode)
    if isinstance(planes, InvalidRequest):
        assert planes.field == "image.data", planes.field
        assert planes.reason.isprintable(), ascii(planes.reason)
        return
    scanned = scan(file, max_pixels=_MAX_PIXELS)
    assert planes.shape == (len(mode) if mode != "GRAY" else 1, *scanned.header.upright)
    assert planes.dtype == scanned.header.dtype
    # The scanner leaves out the parts that the pixels do not need, which may be damaged without any effect.
    needed = b"".join(bytes(part) for part in scanned.parts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Image.open(BytesIO(needed), formats=(scanned.header.format,)).load()
    if scanned.header.format == "PNG":
        _check_png_pixels(file, scanned.coding.sample_bytes)


def _decode(file: bytes, mode: ColorMode) -> np.ndarray | InvalidRequest:
    try:
        return decode(file, mode, max_pixels=_MAX_PIXELS)
    except InvalidRequest as refusal:
        return refusal


def _check_png_pixels(file: bytes, sample_bytes: int) -> None:
    """Fail if the zlib stream of a PNG has too few bytes for the pixels, or does not match the checksum behind them.

    As in Pillow, nothing behind the last pixel is needed: a longer stream is not read further, and may be damaged or
    end without a checksum.
    """
    compressed = b"".join(content for kind, content in _chunks(file) if kind == b"IDAT")
    # Without zlib's header and checksum, which is compared below.
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    pixels = stream.decompress(compressed[2:], sample_bytes)
    missing = sample_bytes - len(pixels)
    assert missing == 0, f"{missing} bytes of the pixels are missing, but the file was decoded"
    try:
        more = stream.decompress(stream.unconsumed_tail, 1)
    except zlib.error:
        return
    if not more and stream.eof and len(stream.unused_data) >= 4:
        checksum = int.from_bytes(stream.unused_data[:4], "big")
        assert checksum == zlib.adler32(pixels), "the checksum does not match, but the file was decoded"


def _chunks(file: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the kind and the content of each chunk of a PNG that is complete."""
    at = len(_PNG_SIGNATURE)
    while at + 12 <= len(file):
        (size,) = struct.unpack_from(">L", file, at)
        if at + 12 + size > len(file):
            return
        yield file[at + 4 : at + 8], file[at + 8 : at + 8 + size]
        at += 12 + size


def _with_checksums(file: bytes) -> bytes:
    """Return a PNG with the right checksum behind each complete chunk, so that damage reaches the decoder."""
    pieces = [_PNG_SIGNATURE]
    for kind, content in _chunks(file):
        pieces.append(struct.pack(">L", len(content)) + kind + content + struct.pack(">L", zlib.crc32(kind + content)))
    rest = file[sum(map(len, pieces)) :]
    return b"".join((*pieces, rest))


if __name__ == "__main__":
    main(Fuzzer("images", generate, check, inputs=250_000, memory_bytes=_MEMORY_BYTES))
