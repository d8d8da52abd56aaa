"""The orientation of an image, from its EXIF block or else its XMP packet, as Pillow's `exif_transpose` reads it.

The first number of the EXIF tag is used, whatever its numeric type. A BYTE, a string, or a value outside 1 to 8 means
upright. XMP is used only if there is no EXIF tag.
"""

import re
import struct
from typing import Literal

from poolservice_server.images import tiff_directory

_TAG = 0x0112
# The struct format of a number, by TIFF type. Pillow does not read a BYTE as a number.
_NUMBERS = {3: "H", 4: "L", 6: "b", 8: "h", 9: "l", 11: "f", 12: "d", 13: "L", 16: "Q"}
_UNKNOWN_TO_PILLOW = frozenset({17, 18})
_RATIOS = {5: "LL", 10: "ll"}

_XMP = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
_UPRIGHT = 1


def from_directory(directory: tiff_directory.Directory, view: memoryview) -> int | None:
    """Return the orientation in a directory of tags, 1 to 8; None if the directory has none."""
    entry = directory.entries.get(_TAG)
    if entry is None or not entry.elements:
        return None
    kind, data = directory.data_of(entry, view)
    if kind in _UNKNOWN_TO_PILLOW:
        return None
    order: Literal["<", ">"] = "<" if directory.order == "<" else ">"
    try:
        if kind in _RATIOS:
            numerator, denominator = struct.unpack_from(order + _RATIOS[kind], data)
            value = numerator / denominator if denominator else 0.0
        elif kind in _NUMBERS:
            (value,) = struct.unpack_from(order + _NUMBERS[kind], data)
        else:
            return _UPRIGHT
    except struct.error:
        # The data lies outside of the file.
        return None
    return _valid(value)


def from_exif(exif: memoryview) -> int | None:
    """Return the orientation in an EXIF block, 1 to 8; None if it has none or is damaged."""
    if bytes(exif[:6]) == b"Exif\0\0":
        exif = exif[6:]
    try:
        return from_directory(tiff_directory.read(exif), exif)
    except tiff_directory.MalformedDirectory:
        return None


def from_metadata(exif: memoryview | None, xmp: bytes | memoryview | None) -> int:
    """Return the orientation in an EXIF block, or else in an XMP packet, 1 to 8; 1 if neither has one."""
    found = None if exif is None else from_exif(exif)
    if found is None:
        found = _UPRIGHT if xmp is None else from_xmp(xmp)
    return found


def from_xmp(xmp: bytes | memoryview) -> int:
    """Return the orientation in an XMP packet, 1 to 8; 1 if it has none."""
    found = _XMP.search(xmp)
    return _valid(int(found[1])) if found else _UPRIGHT


def _valid(value: float) -> int:
    return int(value) if value in range(1, 9) else _UPRIGHT
