"""JPEG (ITU-T T.81): markers and segments."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from poolservice_server.images import tiff_directory
from poolservice_server.images.scan import MAX_BLOCKS, Buffer, Header, Scan, refusal, too_many_blocks, truncated

MAGIC = b"\xff\xd8\xff"

_MARKER = re.compile(rb"\xff([\x01-\xfe])", re.DOTALL)
_EXIF = b"Exif\0\0"
_START_OF_SCAN, _END_OF_IMAGE, _APP1 = 0xDA, 0xD9, 0xE1
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})
# Application segments but for JFIF and Adobe, which say how the colours are coded; and comments.
_METADATA = frozenset(range(0xE1, 0xF0)) - {0xEE} | {0xFE}

# Each scan of a progressive file may pass over all of the picture. Encoders make about ten.
MAX_SCANS = 100
# Bytes between segments that belong to none. There should be no such bytes; decoders skip them, and looking through
# megabytes of them takes time.
MAX_STRAY_BYTES = 65_536


class _Segment(NamedTuple):
    marker: int
    #: Where the marker stands, and where the segment ends.
    start: int
    end: int
    content: memoryview


class _Frame(NamedTuple):
    width: int
    height: int
    components: int
    progressive: bool


def scan(view: memoryview) -> Scan:
    """Walk the segments up to the first scan, leaving out metadata: EXIF, profiles, thumbnails, further pictures."""
    orientation, frame = 1, None
    parts: list[Buffer] = [view[:2]]
    for segment in _segments(view):
        if segment.marker in _FRAMES:
            if frame is not None:
                raise refusal("the JPEG file has two frame headers before its pixels; save the picture again")
            frame = _frame(segment)
        elif segment.marker == _APP1 and orientation == 1 and bytes(segment.content[:6]) == _EXIF:
            orientation = tiff_directory.orientation(segment.content)
        elif segment.marker == _START_OF_SCAN:
            if frame is None:
                raise refusal("the JPEG file has pixels but no frame header that gives their size; save it again")
            header = Header("JPEG", frame.width, frame.height, orientation)
            one_scan = not frame.progressive and bytes(segment.content[:1]) == bytes((frame.components,))
            return Scan(header, [*parts, view[segment.start :]] if one_scan else _parts(parts, view[segment.start :]))
        if segment.marker not in _METADATA:
            parts.append(view[segment.start : segment.end])
    raise too_many_blocks("JPEG", "segments")


def _segments(view: memoryview) -> Iterator[_Segment]:
    """The segments, as far as they are asked for: what follows the header of a scan is no segment."""
    position, stray = 2, MAX_STRAY_BYTES
    for _ in range(MAX_BLOCKS):
        found = _MARKER.search(view, position, position + stray + 2)
        if found is None:
            raise truncated("JPEG", "its header, before any pixels")
        stray -= found.start() - position
        marker, position = found[1][0], found.end()
        if marker in _WITHOUT_LENGTH:
            continue
        if marker == _END_OF_IMAGE:
            raise refusal("the JPEG file has no pixels between its start and its end; send a complete picture")
        length = int.from_bytes(view[position : position + 2], "big")
        content, position = view[position + 2 : position + length], position + length
        if len(content) != length - 2:
            raise truncated("JPEG", "its header, before any pixels")
        yield _Segment(marker, found.start(), position, content)


def _frame(segment: _Segment) -> _Frame:
    content = segment.content
    if len(content) < 6:
        raise truncated("JPEG", "its frame header")
    bits, components = content[0], content[5]
    if bits != 8 or components not in (1, 3, 4):
        raise refusal(
            f"the JPEG file has {components} components of {bits} bits; 1, 3 or 4 components of 8 bits are read"
        )
    height, width = int.from_bytes(content[1:3], "big"), int.from_bytes(content[3:5], "big")
    return _Frame(width, height, components, segment.marker in _PROGRESSIVE)


def _parts(header: list[Buffer], pixels: memoryview) -> Iterator[Buffer]:
    """The file of a picture in several scans, once they are counted."""
    yield from header
    scans = bytes(pixels)
    end = scans.find(b"\xff\xd9")
    if scans.count(b"\xff\xda", 0, end if end >= 0 else len(scans)) > MAX_SCANS:
        raise refusal(f"the JPEG file has more than {MAX_SCANS} scans; save it as a baseline JPEG")
    yield scans
