"""Scanner for WebP files (RFC 9649): a RIFF file of chunks."""

import struct

from poolservice_server.images import orientation
from poolservice_server.images.scan_result import (
    MAX_BLOCKS,
    Coding,
    Header,
    Scan,
    invalid_image,
    too_many_blocks,
    truncated_file,
)


def scan(view: memoryview) -> Scan:
    """Read the size of the canvas, and the orientation if there is an EXIF chunk."""
    if len(view) < 30 or 8 + int.from_bytes(view[4:8], "little") > len(view):
        raise truncated_file("WEBP", f"the RIFF chunk, after {len(view)} bytes")
    kind = bytes(view[12:16])
    exif_orientation, method = 1, "webp"
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(view[at : at + 3], "little") for at in (24, 27))
        exif_orientation, method = _walk(view)
    elif kind == b"VP8L" and view[20] == 0x2F:
        method = "webp_lossless"
        bits = int.from_bytes(view[21:25], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8 " and bytes(view[23:26]) == b"\x9d\x01\x2a":
        width, height = (size & 0x3FFF for size in struct.unpack_from("<HH", view, 26))
    else:
        raise invalid_image("the WEBP file does not begin with a VP8, VP8L or VP8X chunk; send an undamaged file")
    coding = Coding(method, len(view), width * height * 4, channels=4)
    return Scan(Header("WEBP", width, height, exif_orientation), [view], coding)


def _walk(view: memoryview) -> tuple[int, str]:
    """Return the orientation and the method of an extended file."""
    position, end, method = 12, 8 + int.from_bytes(view[4:8], "little"), "webp"
    exif, xmp = None, None
    for _ in range(MAX_BLOCKS):
        if position + 8 > end:
            return orientation.from_metadata(exif, xmp), method
        kind, size = struct.unpack_from("<4sL", view, position)
        content = view[position + 8 : min(position + 8 + size, end)]
        if kind == b"EXIF" and exif is None:
            exif = content
        elif kind == b"XMP ":
            xmp = content
        # A frame of an animation may have alpha or be lossless too.
        if kind in (b"VP8L", b"ALPH", b"ANMF"):
            method = "webp_lossless"
        position += 8 + size + (size & 1)
    raise too_many_blocks("WEBP", "chunks")
