"""Scanner for JPEG files (ITU-T T.81): markers and segments.

A scan of a JPEG file (start of scan, progressive scans) is one coded pass over the pixels.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from poolservice_server.images import tiff_directory
from poolservice_server.images.scan_result import (
    MAX_BLOCKS,
    Buffer,
    Header,
    Scan,
    invalid_image,
    too_many_blocks,
    truncated_file,
)

MAGIC = b"\xff\xd8\xff"

_MARKER = re.compile(rb"\xff([\x01-\xfe])", re.DOTALL)
_EXIF = b"Exif\0\0"
_START_OF_SCAN, _END_OF_IMAGE, _APP1 = 0xDA, 0xD9, 0xE1
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})
# Comments and application segments, except JFIF and Adobe, which define the color space.
_METADATA = frozenset(range(0xE1, 0xF0)) - {0xEE} | {0xFE}

# Each scan of a progressive file may cover the whole image. Encoders write about ten.
MAX_SCANS = 100
# The limit for bytes between segments. Valid files have none; decoders skip them, and searching megabytes of them takes
# time.
MAX_STRAY_BYTES = 65_536


class _Segment(NamedTuple):
    marker: int
    #: The positions of the marker and of the end of the segment.
    start: int
    end: int
    content: memoryview


class _Frame(NamedTuple):
    width: int
    height: int
    components: int
    progressive: bool


def scan(view: memoryview) -> Scan:
    """Walk the segments up to the first scan, leaving out metadata: EXIF, profiles, thumbnails, further images."""
    orientation, frame = 1, None
    parts: list[Buffer] = [view[:2]]
    for segment in _segments(view):
        if segment.marker in _FRAME_HEADERS:
            if frame is not None:
                raise invalid_image("the JPEG file has two frame headers before its pixels; save the image again")
            frame = _frame(segment)
        elif segment.marker == _APP1 and orientation == 1 and bytes(segment.content[:6]) == _EXIF:
            orientation = tiff_directory.orientation(segment.content)
        elif segment.marker == _START_OF_SCAN:
            if frame is None:
                raise invalid_image("the JPEG file has pixels but no frame header that gives their size; save it again")
            header = Header("JPEG", frame.width, frame.height, orientation)
            single_scan = not frame.progressive and bytes(segment.content[:1]) == bytes((frame.components,))
            return Scan(
                header, [*parts, view[segment.start :]] if single_scan else _limit_scans(parts, view[segment.start :])
            )
        if segment.marker not in _METADATA:
            parts.append(view[segment.start : segment.end])
    raise too_many_blocks("JPEG", "segments")


def _segments(view: memoryview) -> Iterator[_Segment]:
    """Yield the segments lazily. The caller stops at the first scan, because coded pixels follow its header."""
    position, stray = 2, MAX_STRAY_BYTES
    for _ in range(MAX_BLOCKS):
        found = _MARKER.search(view, position, position + stray + 2)
        if found is None:
            raise truncated_file("JPEG", "its header, before any pixels")
        stray -= found.start() - position
        marker, position = found[1][0], found.end()
        if marker in _WITHOUT_LENGTH:
            continue
        if marker == _END_OF_IMAGE:
            raise invalid_image("the JPEG file has no pixels between its start and its end; send a complete image")
        length = int.from_bytes(view[position : position + 2], "big")
        content, position = view[position + 2 : position + length], position + length
        if len(content) != length - 2:
            raise truncated_file("JPEG", "its header, before any pixels")
        yield _Segment(marker, found.start(), position, content)


def _frame(segment: _Segment) -> _Frame:
    content = segment.content
    if len(content) < 6:
        raise truncated_file("JPEG", "its frame header")
    bits, components = content[0], content[5]
    if bits != 8 or components not in (1, 3, 4):
        raise invalid_image(
            f"the JPEG file has {components} components of {bits} bits; 1, 3 or 4 components of 8 bits are read"
        )
    height, width = int.from_bytes(content[1:3], "big"), int.from_bytes(content[3:5], "big")
    return _Frame(width, height, components, segment.marker in _PROGRESSIVE)


def _limit_scans(header: list[Buffer], pixels: memoryview) -> Iterator[Buffer]:
    """Yield the parts of a file with several scans, after checking that it has at most MAX_SCANS."""
    yield from header
    scans = bytes(pixels)
    end = scans.find(b"\xff\xd9")
    if scans.count(b"\xff\xda", 0, end if end >= 0 else len(scans)) > MAX_SCANS:
        raise invalid_image(f"the JPEG file has more than {MAX_SCANS} scans; save it as a baseline JPEG")
    yield scans
