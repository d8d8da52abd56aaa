"""Scanner for PNG files (W3C Portable Network Graphics, third edition): chunks with checksums."""

import struct
import zlib
from collections.abc import Iterator

from poolservice_server.foreign_text import quote
from poolservice_server.images import orientation
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

_PIXEL_CHUNKS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
# A keyword, a zero byte, and the method of compression, which is always 0.
_COMPRESSED_CHUNKS = frozenset({b"zTXt", b"iCCP"})
_LONGEST_KEYWORD = 79
_XMP = b"XML:com.adobe.xmp\0"
_LONGEST_XMP = 2**20
_GRAYSCALE, _INDEXED = 0, 3
# The first column and row, and the distances between columns and rows, of each pass of an interlaced image.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
# The samples per pixel of each color type.
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def scan(view: memoryview) -> Scan:
    """Walk the chunks, leaving out text, profiles and all frames of an animation but the first."""
    position, turned, xmp, chunks = len(MAGIC), None, b"", []
    # Chunks that the pixels do not need. As in Pillow, those before the pixels must match their checksums too.
    others: list[memoryview] = []
    for _ in range(MAX_BLOCKS):
        kind, chunk = _read_chunk(view, position)
        position += len(chunk)
        if kind in _PIXEL_CHUNKS:
            chunks.append(chunk)
        else:
            if kind == b"eXIf":
                turned = orientation.from_exif(chunk[8:-4])
            elif kind == b"iTXt" and bytes(chunk[8 : 8 + len(_XMP)]) == _XMP:
                xmp = _read_xmp(chunk[8 + len(_XMP) : -4])
            if not chunks or bytes(chunks[-1][4:8]) != b"IDAT":
                others.append(chunk)
        if kind == b"IEND":
            break
    else:
        raise too_many_blocks("PNG", "chunks")
    first = chunks[0]
    if bytes(first[4:8]) != b"IHDR" or len(first) != 25:
        raise invalid_image("the PNG file does not begin with an IHDR chunk of 13 bytes; send an undamaged file")
    width, height, bits, color, _, _, interlace = struct.unpack_from(">LLBBBBB", first, 8)
    if color == _INDEXED and not any(bytes(chunk[4:8]) == b"PLTE" for chunk in chunks[1:3]):
        raise invalid_image(
            "the PNG file's pixels refer to a palette, and it has no PLTE chunk; send an undamaged file"
        )
    channels = _CHANNELS.get(color, 1)
    coding = Coding(
        "png_interlaced" if interlace else "png",
        sum(len(chunk) - 12 for chunk in chunks if bytes(chunk[4:8]) == b"IDAT"),
        _sample_bytes(width, height, channels * bits, is_interlaced=bool(interlace)),
        channels=channels,
    )
    # Pillow reads all samples of grayscale images, but only the high byte of colors and of grayscale with alpha.
    depth = bits if color == _GRAYSCALE and bits == 16 else 8
    header = Header("PNG", width, height, turned or orientation.from_xmp(xmp), depth)
    return Scan(header, _parts(chunks, others), coding)


def _read_xmp(content: memoryview) -> bytes:
    """Return the XMP packet of an iTXt chunk, whose content follows its keyword; b"" if it is too long or damaged."""
    flags, *texts = bytes(content[:2]), *bytes(content[2:]).split(b"\0", 2)
    if len(texts) != 3 or flags[1]:
        return b""
    if not flags[0]:
        return texts[2]
    try:
        return zlib.decompressobj().decompress(texts[2], _LONGEST_XMP)
    except zlib.error:
        return b""


def _read_chunk(view: memoryview, position: int) -> tuple[bytes, memoryview]:
    """Return the name of the chunk at `position`, and the chunk with its length, name and checksum."""
    if position + 12 > len(view):
        raise truncated_file("PNG", f"the chunks, after {len(view)} bytes and before its IEND chunk")
    length, kind = struct.unpack_from(">L4s", view, position)
    if not kind.isalpha():
        raise invalid_image(
            f"the PNG file has a chunk named {quote(kind)}, and names are four letters; send an undamaged file"
        )
    end = position + 12 + length
    if end > len(view):
        raise invalid_image(
            f"the PNG file's {quote(kind)} chunk claims {length} bytes and {len(view) - position - 12} are left; send "
            "the complete file"
        )
    if kind not in _PIXEL_CHUNKS and not kind[0] & 0x20:
        raise invalid_image(
            f"the PNG file has a critical {quote(kind)} chunk, which is in no PNG standard; save the image again"
        )
    return kind, view[position:end]


def _parts(chunks: list[memoryview], others: list[memoryview]) -> Iterator[Buffer]:
    """Yield `chunks` with all pixels joined in one IDAT chunk, after verifying the checksums of `chunks` and `others`.

    Pillow does not verify the checksums of pixels.
    """
    for chunk in others:
        _verify(chunk)
        if bytes(chunk[4:8]) in _COMPRESSED_CHUNKS:
            _, _, data = bytes(chunk[8 : 8 + _LONGEST_KEYWORD + 2]).partition(b"\0")
            if data[:1] not in (b"", b"\0"):
                raise invalid_image(
                    f"the PNG file's {quote(bytes(chunk[4:8]))} chunk is compressed in an unknown way ({data[0]}); "
                    "save the image again without metadata"
                )
    yield MAGIC
    pixels: list[memoryview] = []
    for chunk in chunks:
        kind = bytes(chunk[4:8])
        _verify(chunk)
        if kind == b"IDAT":
            pixels.append(chunk[8:-4])
            continue
        if kind == b"IEND":
            yield struct.pack(">L4s", sum(map(len, pixels)), b"IDAT")
            yield from pixels
            yield bytes(4)
        yield chunk


def _verify(chunk: memoryview) -> None:
    if zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
        raise invalid_image(
            f"the PNG file's {quote(bytes(chunk[4:8]))} chunk does not match its checksum; send an undamaged file"
        )


def _sample_bytes(width: int, height: int, bits_per_pixel: int, *, is_interlaced: bool) -> int:
    """Return the number of decompressed bytes: each row of each pass has a byte for its filter."""
    if not is_interlaced:
        return height * (1 + (width * bits_per_pixel + 7) // 8)
    nbytes = 0
    for left, top, x_step, y_step in _PASSES:
        columns, rows = -((left - width) // x_step), -((top - height) // y_step)
        if columns > 0 and rows > 0:
            nbytes += rows * (1 + (columns * bits_per_pixel + 7) // 8)
    return nbytes
