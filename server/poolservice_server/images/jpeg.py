"""Scanner for JPEG files (ITU-T T.81): markers and segments.

A scan of a JPEG file (start of scan, progressive scans) is one coded pass over the pixels.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from poolservice.errors import InvalidRequest
from poolservice_server.images import orientation
from poolservice_server.images.scan_result import (
    MAX_BLOCKS,
    Buffer,
    Coding,
    Header,
    Scan,
    invalid_image,
    too_many_blocks,
    truncated_file,
)

MAGIC = b"\xff\xd8\xff"

_MARKER = re.compile(rb"\xff([\x01-\xfe])", re.DOTALL)
# In coded pixels, a 0 after 255 belongs to the data, and restart markers (D0 to D7) divide it.
_MARKER_AFTER_PIXELS = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])", re.DOTALL)
_EXIF = b"Exif\0\0"
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_START_OF_SCAN, _END_OF_IMAGE, _APP1 = 0xDA, 0xD9, 0xE1
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_ARITHMETIC = frozenset(range(0xC9, 0xD0))
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})
# Comments and application segments, except JFIF and Adobe, which define the color space.
_METADATA = frozenset(range(0xE1, 0xF0)) - {0xEE} | {0xFE}

# Each scan of a progressive file may cover the whole image. Encoders write about ten. The cost of decoding counts each
# scan; this limit keeps a file from having thousands of scans of a small image, each with the fixed cost of a scan.
MAX_SCANS = 100
# The limit for bytes between segments. Valid files have none; decoders skip them, and searching megabytes of them takes
# time.
MAX_STRAY_BYTES = 65_536

# Some cameras and programs pad the end of a file.
_PADDING = 512


class _Segment(NamedTuple):
    marker: int
    #: The positions of the marker and of the end of the segment.
    start: int
    end: int
    content: memoryview


class _Frame(NamedTuple):
    marker: int
    width: int
    height: int
    #: The number of samples of each component, by its identifier, with those that fill the last blocks.
    samples: dict[int, int]


def scan(view: memoryview) -> Scan:
    """Walk the segments up to the first scan, leaving out metadata: EXIF, profiles, thumbnails, further images."""
    frame, turned, xmp = None, None, memoryview(b"")
    parts: list[Buffer] = [view[:2]]
    for segment in _segments(view):
        if segment.marker in _FRAME_HEADERS:
            if frame is not None:
                raise invalid_image("the JPEG file has two frame headers before its pixels; save the image again")
            frame = _frame(segment)
        elif segment.marker == _APP1 and turned is None and bytes(segment.content[: len(_EXIF)]) == _EXIF:
            turned = orientation.from_exif(segment.content)
        elif segment.marker == _APP1 and bytes(segment.content[: len(_XMP)]) == _XMP:
            xmp = segment.content
        elif segment.marker == _START_OF_SCAN:
            if frame is None:
                raise invalid_image("the JPEG file has pixels but no frame header that gives their size; save it again")
            header = Header("JPEG", frame.width, frame.height, turned or orientation.from_xmp(xmp))
            pixels = view[segment.start :]
            if frame.marker not in _PROGRESSIVE and bytes(segment.content[:1]) == bytes((len(frame.samples),)):
                # The decoder stops after the only scan.
                return Scan(header, [*parts, pixels], _coding(frame, len(pixels), 1.0))
            starts, passes = _walk_scans(pixels, frame)
            start = sum(map(len, parts))
            boundaries = [start + scan_start for scan_start in starts]
            return Scan(header, [*parts, pixels], _coding(frame, len(pixels), passes), boundaries)
        if segment.marker not in _METADATA:
            parts.append(view[segment.start : segment.end])
    raise too_many_blocks("JPEG", "segments")


def _segments(view: memoryview) -> Iterator[_Segment]:
    """Yield the segments lazily. The caller stops at the first scan, because coded pixels follow its header."""
    position, stray = 2, MAX_STRAY_BYTES
    for _ in range(MAX_BLOCKS):
        found = _MARKER.search(view, position, position + stray + 2)
        if found is None:
            raise _unreadable_header(view)
        stray -= found.start() - position
        marker, position = found[1][0], found.end()
        if marker in _WITHOUT_LENGTH:
            continue
        if marker == _END_OF_IMAGE:
            raise invalid_image("the JPEG file has no pixels between its start and its end; send a complete image")
        length = int.from_bytes(view[position : position + 2], "big")
        content, position = view[position + 2 : position + length], position + length
        if len(content) != length - 2:
            raise _unreadable_header(view)
        yield _Segment(marker, found.start(), position, content)


def _unreadable_header(view: memoryview) -> InvalidRequest:
    """Return the error for a header that does not lead to pixels."""
    # The end of the image may be followed by padding.
    if b"\xff\xd9" in bytes(view[-_PADDING:]):
        return _damaged_header()
    return truncated_file("JPEG", "its header, before any pixels")


def _damaged_header() -> InvalidRequest:
    return invalid_image(
        "the JPEG file's header is damaged, although the file has its end; send the file as it was before it was "
        "damaged, or save the image again"
    )


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
    sampling = [(factors >> 4, factors & 15) for factors in content[7 : 6 + 3 * components : 3]]
    if len(sampling) != components or not all(1 <= factor <= 4 for factors in sampling for factor in factors):
        raise _damaged_header()
    block_width, block_height = 8 * max(x for x, _ in sampling), 8 * max(y for _, y in sampling)
    blocks = -(-width // block_width) * -(-height // block_height)
    samples = {content[6 + 3 * i]: blocks * 64 * x * y for i, (x, y) in enumerate(sampling)}
    if len(samples) != components:
        raise _damaged_header()
    return _Frame(segment.marker, width, height, samples)


def _coding(frame: _Frame, nbytes: int, passes: float) -> Coding:
    if frame.marker in _ARITHMETIC:
        method = "jpeg_arithmetic"
    else:
        method = "jpeg" if passes == 1.0 and frame.marker not in _PROGRESSIVE else "jpeg_scans"
    return Coding(method, nbytes, sum(frame.samples.values()), passes, len(frame.samples))


def _walk_scans(pixels: memoryview, frame: _Frame) -> tuple[list[int], float]:
    """Return the positions of the scans, at most MAX_SCANS, and their number of passes over all samples.

    The segments are walked as a decoder walks them. Searching for markers would be wrong: a segment between two scans
    may contain any bytes, such as the marker of the end of the image.
    """
    starts: list[int] = []
    covered, position = 0, 0
    for _ in range(MAX_BLOCKS):
        found = _MARKER_AFTER_PIXELS.search(pixels, position)
        if found is None or found[1][0] == _END_OF_IMAGE:
            return starts, covered / max(sum(frame.samples.values()), 1)
        marker, position = found[1][0], found.end()
        if marker == _START_OF_SCAN:
            if len(starts) == MAX_SCANS:
                raise invalid_image(f"the JPEG file has more than {MAX_SCANS} scans; save it as a baseline JPEG")
            starts.append(found.start())
            # The selected components follow the length of the segment and their number, each with its tables.
            selected = bytes(pixels[position + 2 : position + 11]) or b"\0"
            covered += sum(frame.samples.get(component, 0) for component in selected[1 : 1 + 2 * selected[0] : 2])
        if marker not in _WITHOUT_LENGTH:
            position += int.from_bytes(pixels[position : position + 2], "big")
    raise too_many_blocks("JPEG", "segments")
