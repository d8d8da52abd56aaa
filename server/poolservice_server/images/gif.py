"""GIF (87a and 89a): blocks and sub-blocks."""

from collections.abc import Iterator

from poolservice_server.images.scan import MAX_BLOCKS, Buffer, Header, Scan, refusal, too_many_blocks, truncated

_EXTENSION, _PICTURE = 0x21, 0x2C
_GRAPHIC_CONTROL = 0xF9


def scan(view: memoryview) -> Scan:
    """Walk the blocks up to the first picture, leaving out comments and application data."""
    if len(view) < 13:
        raise truncated("GIF", "its header")
    position = 13 + _table(view[10])
    parts: list[Buffer] = [view[:position]]
    # One count for blocks and for what they are made of.
    steps = iter(range(MAX_BLOCKS))
    for _ in steps:
        if position >= len(view):
            raise truncated("GIF", "the blocks before its first picture")
        block = view[position]
        if block == _PICTURE:
            break
        if block != _EXTENSION:
            raise refusal("the GIF file has no picture; send a file with at least one frame")
        end = _after_sub_blocks(view, position + 2, steps)
        if view[position + 1] == _GRAPHIC_CONTROL:
            parts.append(view[position:end])
        position = end
    else:
        raise too_many_blocks("GIF", "blocks")
    if position + 10 > len(view):
        raise truncated("GIF", "the header of its first picture")
    left, top, width, height = (
        int.from_bytes(view[at : at + 2], "little") for at in range(position + 1, position + 9, 2)
    )
    if width < 1 or height < 1:
        raise refusal(f"the GIF file's first frame is {width} x {height} pixels; both must be at least 1")
    parts.append(view[position:])
    screen_width, screen_height = int.from_bytes(view[6:8], "little"), int.from_bytes(view[8:10], "little")
    # A frame that reaches over the screen enlarges it, as in Pillow.
    return Scan(Header("GIF", max(screen_width, left + width), max(screen_height, top + height)), parts)


def _table(flags: int) -> int:
    """Bytes of the colour table that `flags` announce."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _after_sub_blocks(view: memoryview, position: int, steps: Iterator[int]) -> int:
    for _ in steps:
        if position >= len(view):
            raise truncated("GIF", "the blocks before its first picture")
        size = view[position]
        position += 1 + size
        if not size:
            return position
    raise too_many_blocks("GIF", "sub-blocks")
