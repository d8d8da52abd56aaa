"""Scanner for PNG files (W3C Portable Network Graphics, third edition): chunks with checksums."""

import struct
import zlib
from collections.abc import Iterator

from poolservice_server.images import tiff_directory
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
_INDEXED = 3
# The samples per pixel of each color type.
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def scan(view: memoryview) -> Scan:
    """Walk the chunks, leaving out text, profiles and all frames of an animation but the first."""
    position, orientation, chunks = len(MAGIC), 1, []
    for _ in range(MAX_BLOCKS):
        if position + 12 > len(view):
            raise truncated_file("PNG", f"the chunks, after {len(view)} bytes and before its IEND chunk")
        length, kind = struct.unpack_from(">L4s", view, position)
        end = position + 12 + length
        if end > len(view):
            raise invalid_image(
                f"the PNG file's {_name(kind)} chunk claims {length} bytes and {max(len(view) - position - 12, 0)} are "
                "left; send the complete file"
            )
        if kind in _PIXEL_CHUNKS:
            chunks.append(view[position:end])
        elif kind == b"eXIf":
            orientation = tiff_directory.orientation(view[position + 8 : end - 4])
        elif not kind[0] & 0x20:
            raise invalid_image(
                f"the PNG file has a critical {_name(kind)} chunk, which is in no PNG standard; save the image again"
            )
        position = end
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
        height * (1 + (width * channels * bits + 7) // 8),
        channels=channels,
    )
    return Scan(Header("PNG", width, height, orientation), _parts(chunks), coding)


def _parts(chunks: list[memoryview]) -> Iterator[Buffer]:
    """Yield the chunks after verifying their checksums, with all pixels joined in one IDAT chunk.

    Pillow does not verify the checksums of pixels.
    """
    yield MAGIC
    pixels: list[memoryview] = []
    for chunk in chunks:
        kind = bytes(chunk[4:8])
        if zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
            raise invalid_image(
                f"the PNG file's {_name(kind)} chunk does not match its checksum; send an undamaged file"
            )
        if kind == b"IDAT":
            pixels.append(chunk[8:-4])
            continue
        if kind == b"IEND":
            # When the compressed data ends, Pillow accepts the image even if rows are missing. Without the last byte,
            # which belongs to the checksum of the compressed data, Pillow sees no end and reports the missing rows.
            # The other checksum bytes must stay: without any byte after the pixels, Pillow rejects one valid small
            # image in seven.
            compressed = b"".join(pixels)[:-1]
            yield from (struct.pack(">L4s", len(compressed), b"IDAT"), compressed, bytes(4))
        yield chunk


def _name(kind: bytes) -> str:
    return kind.decode("ascii", "backslashreplace")
