"""Detect a PNG whose compressed data ends before its last row.

When the compressed data ends, Pillow accepts the image even if rows are missing, and leaves them as they were. So one
pixel of the row that is decoded last is marked before decoding. If it still has the mark afterwards, which is rare in a
complete image, the rows are counted by decompressing the data once more. Counting them always would cost about as much
as decoding.
"""

import struct
import zlib
from collections.abc import Mapping
from types import MappingProxyType

from PIL import Image

from poolservice_server.images.png import MAGIC
from poolservice_server.images.scan_result import invalid_image
from poolservice_server.stop import Stop, WorkStopped

# An unusual color in each mode of a PNG, so that few complete images are decompressed twice.
_MARKS: Mapping[str, int | tuple[int, ...]] = MappingProxyType(
    {
        **dict.fromkeys(("1", "L", "P", "I;16"), 0xA5),
        **{mode: (0xA5,) * len(mode) for mode in ("LA", "RGB", "RGBA")},
    }
)
# The unread rest of the compressed data is copied once per piece.
_PIECE_NBYTES = 4 * 2**20


def mark_last(image: Image.Image) -> None:
    """Mark a pixel of the last row of an image that has been opened and not loaded yet."""
    image.im = Image.core.new(image.mode, image.size)  # type: ignore[attr-defined]
    image.im.putpixel(_last_pixel(image), _MARKS[image.mode])


def may_be_missing(image: Image.Image) -> bool:
    """Return True if a loaded image still has the mark."""
    color: object = image.im.getpixel(_last_pixel(image))
    return color == _MARKS[image.mode]


def check(file: bytes, sample_bytes: int, stop: Stop) -> None:
    """Decompress the pixels of a file and count their bytes.

    Args:
        file: the file, with its pixels in one IDAT chunk.
        sample_bytes: the number of bytes that its size, depth and color type require.
        stop: returns True if nobody waits for the image any more.

    Raises:
        InvalidRequest: there are too few bytes.
        WorkStopped: `stop` returned True.
    """
    position, length, kind = len(MAGIC), 0, b""
    while kind != b"IDAT":
        position += length + (12 if kind else 0)
        length, kind = struct.unpack_from(">L4s", file, position)
    decompressor = zlib.decompressobj()
    compressed: bytes | memoryview = memoryview(file)[position + 8 : position + 8 + length]
    missing = sample_bytes
    while missing > 0 and compressed:
        if stop():
            raise WorkStopped
        missing -= len(decompressor.decompress(compressed, min(missing, _PIECE_NBYTES)))
        if decompressor.eof:
            break
        compressed = decompressor.unconsumed_tail
    if missing > 0:
        raise invalid_image(
            f"the PNG file is truncated: its pixels take {sample_bytes} bytes and {missing} of them are missing; send "
            "the complete file"
        )


def _last_pixel(image: Image.Image) -> tuple[int, int]:
    """Return the column and row of a pixel that is decoded together with the last row."""
    width, height = image.size
    if not image.info.get("interlace"):
        return 0, height - 1
    # The last pass has every second row. A single row is in the pass before it, with every second column.
    if height > 1:
        return 0, height // 2 * 2 - 1
    return max(width // 2 * 2 - 1, 0), 0
