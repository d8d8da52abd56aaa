"""Scanner for PNG files (W3C Portable Network Graphics, third edition): chunks with checksums."""

import struct
import zlib
from collections.abc import Iterator

from poolservice_server.foreign_text import quote
from poolservice_server.images import png_orientation
from poolservice_server.images.png_orientation import Chunk
from poolservice_server.images.scan_result import (
    MAX_BLOCKS,
    Buffer,
    Coding,
    Header,
    Scan,
    invalid_image,
    too_many_blocks,
    truncated_file,
)

MAGIC = b"\x89PNG\r\n\x1a\n"

_LENGTH_AND_NAME = struct.Struct(">L4s")
# Width, height, bits per sample, color type, and the methods of compression, filtering and interlacing.
_HEADER = struct.Struct(">LLBBBBB")

_PIXEL_CHUNKS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
# A keyword, a zero byte, and the method of compression, which is always 0.
_COMPRESSED_CHUNKS = frozenset({b"zTXt", b"iCCP"})
_LONGEST_KEYWORD = 79
_GRAYSCALE, _INDEXED = 0, 3
# The first column and row, and the distances between columns and rows, of each pass of an interlaced image.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
# The samples per pixel of each color type.
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def scan(view: memoryview) -> Scan:
    """Walk the chunks, leaving out text, profiles and all frames of an animation but the first."""
    position, nbytes = len(MAGIC), 0
    chunks: list[Chunk] = []
    # Chunks that the pixels do not need. As in Pillow, those before the pixels must match their checksums too.
    others: list[Chunk] = []
    checked = 0
    for _ in range(MAX_BLOCKS):
        name, whole = chunk = _read_chunk(view, position)
        position += len(whole)
        if name not in _PIXEL_CHUNKS:
            others.append(chunk)
            checked += not chunks or chunks[-1][0] != b"IDAT"
            continue
        chunks.append(chunk)
        if name == b"IDAT":
            nbytes += len(whole) - 12
        elif name == b"IEND":
            break
    else:
        raise too_many_blocks("PNG", "chunks")
    name, whole = chunks[0]
    if name != b"IHDR" or len(whole) != 25:
        raise invalid_image("the PNG file does not begin with an IHDR chunk of 13 bytes; send an undamaged file")
    width, height, bits, color, _, _, interlace = _HEADER.unpack_from(whole, 8)
    if color == _INDEXED and not any(name == b"PLTE" for name, _ in chunks[1:3]):
        raise invalid_image(
            "the PNG file's pixels refer to a palette, and it has no PLTE chunk; send an undamaged file"
        )
    channels = _CHANNELS.get(color, 1)
    coding = Coding(
        "png_interlaced" if interlace else "png",
        nbytes,
        _sample_bytes(width, height, channels * bits, interlace),
        channels=channels,
    )
    # Pillow reads all samples of grayscale images, but only the high byte of colors and of grayscale with alpha.
    depth = bits if color == _GRAYSCALE and bits == 16 else 8
    exif_orientation = png_orientation.read(others) if others else 1
    return Scan(Header("PNG", width, height, exif_orientation, depth), _parts(chunks, others[:checked]), coding)


def _read_chunk(view: memoryview, position: int) -> Chunk:
    """Return the chunk at `position`."""
    if position + 12 > len(view):
        raise truncated_file("PNG", f"the chunks, after {len(view)} bytes and before its IEND chunk")
    length, name = _LENGTH_AND_NAME.unpack_from(view, position)
    if name not in _PIXEL_CHUNKS and not name.isalpha():
        raise invalid_image(
            f"the PNG file has a chunk named {quote(name)}, and names are four letters; send an undamaged file"
        )
    end = position + 12 + length
    if end > len(view):
        raise invalid_image(
            f"the PNG file's {quote(name)} chunk claims {length} bytes and {len(view) - position - 12} are left; send "
            "the complete file"
        )
    if name not in _PIXEL_CHUNKS and not name[0] & 0x20:
        raise invalid_image(
            f"the PNG file has a critical {quote(name)} chunk, which is in no PNG standard; save the image again"
        )
    return name, view[position:end]


def _parts(chunks: list[Chunk], others: list[Chunk]) -> Iterator[Buffer]:
    """Yield `chunks` with all pixels joined in one IDAT chunk, after verifying the checksums of `chunks` and `others`.

    Pillow does not verify the checksums of pixels.
    """
    for name, whole in others:
        _verify(name, whole)
        if name in _COMPRESSED_CHUNKS:
            _, _, data = bytes(whole[8 : 8 + _LONGEST_KEYWORD + 2]).partition(b"\0")
            if data[:1] not in (b"", b"\0"):
                raise invalid_image(
                    f"the PNG file's {quote(name)} chunk is compressed in an unknown way ({data[0]}); save the image "
                    "again without metadata"
                )
    yield MAGIC
    pixels: list[memoryview] = []
    for name, whole in chunks:
        _verify(name, whole)
        if name == b"IDAT":
            pixels.append(whole[8:-4])
            continue
        if name == b"IEND":
            yield _LENGTH_AND_NAME.pack(sum(map(len, pixels)), b"IDAT")
            yield from pixels
            yield bytes(4)
        yield whole


def _verify(name: bytes, whole: memoryview) -> None:
    if zlib.crc32(whole[4:-4]) != int.from_bytes(whole[-4:], "big"):
        raise invalid_image(f"the PNG file's {quote(name)} chunk does not match its checksum; send an undamaged file")


def _sample_bytes(width: int, height: int, bits_per_pixel: int, interlace: int) -> int:
    """Return the number of decompressed bytes: each row of each pass has a byte for its filter."""
    if not interlace:
        return height * (1 + (width * bits_per_pixel + 7) // 8)
    nbytes = 0
    for left, top, x_step, y_step in _PASSES:
        columns, rows = -((left - width) // x_step), -((top - height) // y_step)
        if columns > 0 and rows > 0:
            nbytes += rows * (1 + (columns * bits_per_pixel + 7) // 8)
    return nbytes
