"""Scanner for GIF files (87a and 89a): blocks and sub-blocks."""

from collections.abc import Iterator

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

_EXTENSION, _IMAGE = 0x21, 0x2C
_GRAPHIC_CONTROL = 0xF9


def scan(view: memoryview) -> Scan:
    """Walk the blocks up to the first image, leaving out comments and application data."""
    if len(view) < 13:
        raise truncated_file("GIF", "its header")
    position = 13 + _color_table_nbytes(view[10])
    parts: list[Buffer] = [view[:position]]
    # Blocks and their sub-blocks share one limit.
    steps = iter(range(MAX_BLOCKS))
    for _ in steps:
        if position >= len(view):
            raise truncated_file("GIF", "the blocks before its first image")
        block = view[position]
        if block == _IMAGE:
            break
        if block != _EXTENSION:
            raise invalid_image("the GIF file has no image; send a file with at least one frame")
        end = _skip_sub_blocks(view, position + 2, steps)
        if view[position + 1] == _GRAPHIC_CONTROL:
            parts.append(view[position:end])
        position = end
    else:
        raise too_many_blocks("GIF", "blocks")
    if position + 10 > len(view):
        raise truncated_file("GIF", "the header of its first image")
    left, top, width, height = (
        int.from_bytes(view[at : at + 2], "little") for at in range(position + 1, position + 9, 2)
    )
    if width < 1 or height < 1:
        raise invalid_image(f"the GIF file's first frame is {width} x {height} pixels; both must be at least 1")
    parts.append(view[position:])
    screen_width, screen_height = int.from_bytes(view[6:8], "little"), int.from_bytes(view[8:10], "little")
    # A frame that extends beyond the screen enlarges the image, as in Pillow.
    header = Header("GIF", max(screen_width, left + width), max(screen_height, top + height))
    return Scan(header, parts, Coding("gif", len(view) - position, width * height, channels=1))


def _color_table_nbytes(flags: int) -> int:
    """Return the size in bytes of the global color table that `flags` declare."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _skip_sub_blocks(view: memoryview, position: int, steps: Iterator[int]) -> int:
    """Return the position after the sub-blocks that start at `position`."""
    for _ in steps:
        if position >= len(view):
            raise truncated_file("GIF", "the blocks before its first image")
        size = view[position]
        position += 1 + size
        if not size:
            return position
    raise too_many_blocks("GIF", "sub-blocks")
