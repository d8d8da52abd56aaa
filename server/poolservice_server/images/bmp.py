"""Scanner for BMP files: a header, an optional palette, and rows of pixels."""

import struct

from poolservice_server.images.scan_result import Coding, Header, Scan, invalid_image, truncated_file

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
        width, height, _, bits = struct.unpack_from("<HHHH", view, 18)
        return _scan(view, Header("BMP", width, height), "raw", bits)
    if header_size < 40 or len(view) < 54:
        raise truncated_file("BMP", f"its header, which claims {header_size} bytes")
    # A negative height means that the rows are stored from top to bottom.
    width, height, _, bits, compression = struct.unpack_from("<llHHL", view, 18)
    header = Header("BMP", width, abs(height))
    if compression in _RUN_LENGTH and header.width * header.height > MAX_RUN_LENGTH_PIXELS:
        raise invalid_image(
            f"the BMP file is run-length encoded and has more than {MAX_RUN_LENGTH_PIXELS} pixels; save it without "
            "compression or as PNG"
        )
    return _scan(view, header, "bmp_run_length" if compression in _RUN_LENGTH else "raw", bits)


def _scan(view: memoryview, header: Header, method: str, bits: int) -> Scan:
    sample_bytes = header.height * ((header.width * bits + 31) // 32 * 4)
    return Scan(header, [view], Coding(method, len(view), sample_bytes, channels=3 if bits > 8 else 1))
