"""Pictures: encoded files in, planes of uint8 out; and planes in, PNG files out.

A request's picture comes from strangers, so its file is read twice. First one of our scanners (jpeg, png, webp, gif,
bmp, tiff) walks the container: it finds the size and the orientation, refuses what lies about itself, and picks the
parts that make pixels. Only those reach a decoder, and only when the size is within the limit. Text, colour profiles,
thumbnails and further frames are never unpacked, so a bomb among them costs nothing.
"""

from poolservice_server.images.decoder import ColorMode, decode, decode_scanned
from poolservice_server.images.encoder import encode_png
from poolservice_server.images.formats import FORMATS, read_header, scan
from poolservice_server.images.scan import Header, Scan

__all__ = ["FORMATS", "ColorMode", "Header", "Scan", "decode", "decode_scanned", "encode_png", "read_header", "scan"]
