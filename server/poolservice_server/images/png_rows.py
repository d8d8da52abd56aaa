"""Detect a PNG whose compressed data ends before its last row.

When the compressed data ends, Pillow accepts the image even if rows are missing, and leaves them as they were. So the
last row is marked before decoding. If it still has the mark afterwards, which is rare in a complete image, the rows are
counted by decompressing the data once more. Counting them always would cost about as much as decoding.
"""

import struct
import zlib

from PIL import Image

from poolservice_server.images.png import MAGIC
from poolservice_server.images.scan_result import invalid_image
from poolservice_server.pool_stage import Stop, WorkStopped

# An unusual value, so that few complete images are decompressed twice.
_MARK = 0xA5
# The unread rest of the compressed data is copied once per piece.
_PIECE_NBYTES = 4 * 2**20


def mark_last(image: Image.Image) -> None:
    """Mark the last row of an image that has been opened and not loaded yet."""
    image.im = Image.core.new(image.mode, image.size)  # type: ignore[attr-defined]
    image.im.paste(_mark_color(image.mode), (0, image.height - 1, image.width, image.height))


def may_be_missing(image: Image.Image) -> bool:
    """Return True if the last row of a loaded image has the mark, or is not the last to be decoded."""
    if image.info.get("interlace"):
        return True
    last = image.crop((0, image.height - 1, image.width, image.height))
    marked = Image.new(image.mode, last.size)
    marked.im.paste(_mark_color(image.mode), (0, 0, *last.size))
    return last.tobytes() == marked.tobytes()


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


def _mark_color(mode: str) -> int | tuple[int, ...]:
    bands = Image.getmodebands(mode)
    return (_MARK,) * bands if bands > 1 else _MARK
