"""Scanner for BMP files: a header, an optional palette, and rows of pixels."""

import struct

from poolservice_server.images.scan_result import Header, Scan, invalid_image, truncated_file

_CORE_HEADER = 12
_RUN_LENGTH = frozenset({1, 2})

# Pillow decodes run lengths in Python, at about ten million pixels per second, and such files are rare.
MAX_RUN_LENGTH_PIXELS = 4_000_000


def scan(view: memoryview) -> Scan:
    """Read the size of the image."""
    if len(view) < 26:
        raise truncated_file("BMP", "its header")
    (header_size,) = struct.unpack_from("<L", view, 14)
    if header_size == _CORE_HEADER:
        width, height = struct.unpack_from("<HH", view, 18)
        return Scan(Header("BMP", width, height), [view])
    if header_size < 40 or len(view) < 54:
        raise truncated_file("BMP", f"its header, which claims {header_size} bytes")
    # A negative height means that the rows are stored from top to bottom.
    width, height, _, _, compression = struct.unpack_from("<llHHL", view, 18)
    header = Header("BMP", width, abs(height))
    if compression in _RUN_LENGTH and header.width * header.height > MAX_RUN_LENGTH_PIXELS:
        raise invalid_image(
            f"the BMP file is run-length encoded and has more than {MAX_RUN_LENGTH_PIXELS} pixels; save it without "
            "compression or as PNG"
        )
    return Scan(header, [view])
