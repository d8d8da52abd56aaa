"""PNG (W3C Portable Network Graphics, third edition): chunks with checksums."""

import struct
import zlib
from collections.abc import Iterator

from poolservice_server.images import tiff_directory
from poolservice_server.images.scan import MAX_BLOCKS, Buffer, Header, Scan, refusal, too_many_blocks, truncated

MAGIC = b"\x89PNG\r\n\x1a\n"

_KEPT = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
_INDEXED = 3


def scan(view: memoryview) -> Scan:
    """Walk the chunks, leaving out text, profiles and the further frames of an animation."""
    position, orientation, kept = len(MAGIC), 1, []
    for _ in range(MAX_BLOCKS):
        if position + 12 > len(view):
            raise truncated("PNG", f"the chunks, after {len(view)} bytes and before its IEND chunk")
        length, kind = struct.unpack_from(">L4s", view, position)
        end = position + 12 + length
        if end > len(view):
            raise refusal(
                f"the PNG file's {_name(kind)} chunk claims {length} bytes and {max(len(view) - position - 12, 0)} are "
                "left; send the complete file"
            )
        if kind in _KEPT:
            kept.append(view[position:end])
        elif kind == b"eXIf":
            orientation = tiff_directory.orientation(view[position + 8 : end - 4])
        elif not kind[0] & 0x20:
            raise refusal(f"the PNG file needs a {_name(kind)} chunk to be understood, which no PNG standard has")
        position = end
        if kind == b"IEND":
            break
    else:
        raise too_many_blocks("PNG", "chunks")
    first = kept[0]
    if bytes(first[4:8]) != b"IHDR" or len(first) != 25:
        raise refusal("the PNG file does not begin with an IHDR chunk of 13 bytes; send an undamaged file")
    width, height, _, color = struct.unpack_from(">LLBB", first, 8)
    if color == _INDEXED and not any(bytes(chunk[4:8]) == b"PLTE" for chunk in kept[1:3]):
        raise refusal("the PNG file's pixels point into a palette, and it has no PLTE chunk; send an undamaged file")
    return Scan(Header("PNG", width, height, orientation), _parts(kept))


def _parts(chunks: list[memoryview]) -> Iterator[Buffer]:
    """The chunks, each compared with its checksum, which Pillow skips for pixels; and all pixels in one chunk."""
    yield MAGIC
    pixels: list[memoryview] = []
    for chunk in chunks:
        kind = bytes(chunk[4:8])
        if zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
            raise refusal(f"the PNG file's {_name(kind)} chunk does not match its checksum; send an undamaged file")
        if kind == b"IDAT":
            pixels.append(chunk[8:-4])
            continue
        if kind == b"IEND":
            # Pillow takes the end of the packed data for the end of the picture, though rows be missing. Without the
            # last byte, of a checksum once more, it sees no end and asks for the rows. It needs the bytes before that
            # one: without any behind the pixels it gives up on one small picture in seven.
            packed = b"".join(pixels)[:-1]
            yield from (struct.pack(">L4s", len(packed), b"IDAT"), packed, bytes(4))
        yield chunk


def _name(kind: bytes) -> str:
    return kind.decode("ascii", "backslashreplace")
