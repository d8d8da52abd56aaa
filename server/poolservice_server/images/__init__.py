"""Decode image files to uint8 planes, and encode planes as PNG files.

Requests may contain malicious files, so each file is read twice. First, a scanner of this package (jpeg, png, webp,
gif, bmp, tiff) walks the container: it reads the size and the orientation, rejects inconsistent files, and selects the
parts that the pixels need. Then a decoder receives only those parts, and only if the size is within the limit. Text,
color profiles, thumbnails and further frames are never decompressed, so a decompression bomb in them has no effect.
"""

from poolservice_server.images.color_mode import CHANNELS, ColorMode
from poolservice_server.images.decode_cost import decode_cost
from poolservice_server.images.decoder import Decode, DecoderEnded, decode, decode_scanned
from poolservice_server.images.encoder import encode_png
from poolservice_server.images.formats import FORMATS, read_header, scan
from poolservice_server.images.scan_result import Header, ImageTooLarge, Scan

__all__ = [
    "CHANNELS",
    "FORMATS",
    "ColorMode",
    "Decode",
    "DecoderEnded",
    "Header",
    "ImageTooLarge",
    "Scan",
    "decode",
    "decode_cost",
    "decode_scanned",
    "encode_png",
    "read_header",
    "scan",
]
