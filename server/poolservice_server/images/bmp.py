"""BMP: a header, perhaps a palette, and rows."""

import struct

from poolservice_server.images.scan import Header, Scan, refusal, truncated

_CORE_HEADER = 12
_RUN_LENGTH = frozenset({1, 2})

# Pillow unpacks run lengths in Python, a second for some ten million pixels, and hardly anybody writes them.
MAX_RUN_LENGTH_PIXELS = 4_000_000


def scan(view: memoryview) -> Scan:
    """Read the size."""
    if len(view) < 26:
        raise truncated("BMP", "its header")
    (header_size,) = struct.unpack_from("<L", view, 14)
    if header_size == _CORE_HEADER:
        width, height = struct.unpack_from("<HH", view, 18)
        return Scan(Header("BMP", width, height), [view])
    if header_size < 40 or len(view) < 54:
        raise truncated("BMP", f"its header, which claims {header_size} bytes")
    # Rows from the top down are a negative height.
    width, height, _, _, compression = struct.unpack_from("<llHHL", view, 18)
    header = Header("BMP", width, abs(height))
    if compression in _RUN_LENGTH and header.width * header.height > MAX_RUN_LENGTH_PIXELS:
        raise refusal(
            f"the BMP file is run-length encoded and has more than {MAX_RUN_LENGTH_PIXELS} pixels; save it without "
            "compression or as PNG"
        )
    return Scan(header, [view])
