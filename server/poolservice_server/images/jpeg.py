"""Scanner for JPEG files (ITU-T T.81): markers and segments.

A scan of a JPEG file (start of scan, progressive scans) is one coded pass over the pixels.
"""

import re
import struct
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
# Bits per sample, height, width, and the number of components.
_FRAME_HEADER = struct.Struct(">BHHB")
_FACTORS = frozenset(horizontal << 4 | vertical for horizontal in range(1, 5) for vertical in range(1, 5))
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})
# Comments and application segments, except JFIF and Adobe, which define the color space.
_METADATA = frozenset(range(0xE1, 0xF0)) - {0xEE} | {0xFE}
# The content of these two begins with "JFIF\0" or "Adobe", and a version of two bytes.
_COLOR_SPACE = {0xE0: b"JFIF", 0xEE: b"Adobe"}
_LEAST_COLOR_SPACE_BYTES = 7

# Each scan of a progressive file may cover the whole image. Encoders write about ten. The cost of decoding counts each
# scan; this limit keeps a file from having thousands of scans of a small image, each with the fixed cost of a scan.
MAX_SCANS = 100
# The limit for bytes between segments. Valid files have none; decoders skip them, and searching megabytes of them takes
# time.
MAX_STRAY_BYTES = 65_536

# Some cameras and programs pad the end of a file.
_PADDING = 512

# The marker of a segment, the position of that marker, and the start and end of the content. A plain tuple is fast to
# create, and files have many segments.
_Segment = tuple[int, int, int, int]


class _Frame(NamedTuple):
    marker: int
    width: int
    height: int
    #: The number of samples of each component, by its identifier, with those that fill the last blocks.
    samples: dict[int, int]


def scan(view: memoryview) -> Scan:
    """Walk the segments up to the first scan, leaving out metadata: EXIF, profiles, thumbnails, further images."""
    frame, exif, xmp = None, None, None
    parts: list[Buffer] = []
    # The bytes from `kept` to `end` belong to the next part.
    kept, end = 0, 2
    for marker, start, content, next_end in _segments(view):
        if start != end:
            parts.append(view[kept:end])
            kept = start
        end = next_end
        if marker in _METADATA:
            parts.append(view[kept:start])
            kept = end
            if marker == _APP1:
                exif, xmp = _orientation_sources(view[content:end], exif, xmp)
        elif marker in _COLOR_SPACE:
            _check_color_space(marker, view[content:end])
        elif marker in _FRAME_HEADERS:
            if frame is not None:
                raise invalid_image("the JPEG file has two frame headers before its pixels; save the image again")
            frame = _frame(marker, bytes(view[content:end]))
        elif marker == _START_OF_SCAN:
            if frame is None:
                raise invalid_image("the JPEG file has pixels but no frame header that gives their size; save it again")
            parts.append(view[kept:])
            header = Header("JPEG", frame.width, frame.height, orientation.from_metadata(exif, xmp))
            # The decoder stops after the only scan.
            is_only = frame.marker not in _PROGRESSIVE and view[content:end][:1] == bytes((len(frame.samples),))
            return _scan_pixels(header, parts, view[start:], frame, is_only=is_only)
    raise too_many_blocks("JPEG", "segments")


def _orientation_sources(
    app1: memoryview, exif: memoryview | None, xmp: memoryview | None
) -> tuple[memoryview | None, memoryview | None]:
    """Return the first EXIF data and the last XMP data, given those before the segment `app1`."""
    if exif is None and app1[: len(_EXIF)] == _EXIF:
        return app1, xmp
    return exif, (app1 if app1[: len(_XMP)] == _XMP else xmp)


def _check_color_space(marker: int, content: memoryview) -> None:
    name = _COLOR_SPACE[marker]
    if len(content) < _LEAST_COLOR_SPACE_BYTES and content[: len(name)] == name:
        raise _damaged_header()


def _scan_pixels(header: Header, parts: list[Buffer], pixels: memoryview, frame: _Frame, *, is_only: bool) -> Scan:
    """Return the result for a file whose `pixels`, from the first scan on, are the end of the last of its parts."""
    if is_only:
        return Scan(header, parts, _coding(frame, len(pixels), 1.0))
    starts, passes = _walk_scans(pixels, frame)
    first = sum(map(len, parts)) - len(pixels)
    return Scan(header, parts, _coding(frame, len(pixels), passes), [first + start for start in starts])


def _segments(view: memoryview) -> Iterator[_Segment]:
    """Yield the segments lazily. The caller stops at the first scan, because coded pixels follow its header."""
    position, stray, nbytes = 2, MAX_STRAY_BYTES, len(view)
    for _ in range(MAX_BLOCKS):
        start = position
        # Nearly always the next segment follows immediately.
        if position + 4 <= nbytes and view[position] == 0xFF and 0 < view[position + 1] < 0xFF:
            marker = view[position + 1]
        else:
            found = _MARKER.search(view, position, position + stray + 2)
            if found is None:
                raise _unreadable_header(view)
            start, marker = found.start(), found[1][0]
            stray -= start - position
        position = start + 2
        if marker in _WITHOUT_LENGTH:
            continue
        if marker == _END_OF_IMAGE:
            raise invalid_image("the JPEG file has no pixels between its start and its end; send a complete image")
        length = int.from_bytes(view[position : position + 2], "big")
        if length < 2 or position + length > nbytes:
            raise _unreadable_header(view)
        yield marker, start, position + 2, position + length
        position += length


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


def _frame(marker: int, content: bytes) -> _Frame:
    if len(content) < 6:
        raise truncated_file("JPEG", "its frame header")
    bits, height, width, components = _FRAME_HEADER.unpack_from(content)
    if bits != 8 or components not in (1, 3, 4):
        raise invalid_image(
            f"the JPEG file has {components} components of {bits} bits; 1, 3 or 4 components of 8 bits are read"
        )
    end = 6 + 3 * components
    identifiers, factors = content[6:end:3], content[7:end:3]
    if len(set(identifiers)) != components or len(factors) != components or not _FACTORS.issuperset(factors):
        raise _damaged_header()
    # The high half of a byte is the horizontal sampling factor, the low half the vertical one.
    block_width, block_height = 8 * (max(factors) >> 4), 8 * max([factor & 15 for factor in factors])
    blocks = 64 * -(-width // block_width) * -(-height // block_height)
    samples = {key: blocks * (factor >> 4) * (factor & 15) for key, factor in zip(identifiers, factors, strict=True)}
    return _Frame(marker, width, height, samples)


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
