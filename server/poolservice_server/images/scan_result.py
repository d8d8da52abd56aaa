"""The result of scanning an image file, and the errors that scanners raise."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from poolservice.errors import InvalidRequest

Buffer = bytes | bytearray | memoryview

#: The limit for the number of chunks, segments or sub-blocks of a file. Real files have far fewer. Without a limit, a
#: file of empty blocks would occupy a thread for seconds.
MAX_BLOCKS = 20_000


class Header(NamedTuple):
    """The properties of an image that its file declares, read without decoding a pixel.

    Attributes:
        format: one of FORMATS.
        width: the stored width in pixels, before the orientation is applied.
        height: the stored height in pixels, before the orientation is applied.
        orientation: the EXIF orientation, 1 (upright as stored) to 8.
        bits: bits per sample of an image that is decoded to uint16: 16, or 12, which are widened to 16. All other
            images have 8, and are decoded to uint8.
    """

    format: str
    width: int
    height: int
    orientation: int = 1
    bits: int = 8

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the decoded planes, whose largest value is white."""
        return np.dtype(np.uint8 if self.bits == 8 else np.uint16)

    @property
    def upright(self) -> tuple[int, int]:
        """Height and width in pixels after the orientation is applied, as `decode` returns the image."""
        return (self.width, self.height) if self.orientation >= 5 else (self.height, self.width)


class Coding(NamedTuple):
    """How a file stores its pixels, as far as the cost of decoding depends on it.

    Attributes:
        method: the compression, one of the METHODS of `decode_cost`.
        nbytes: the size of the compressed pixels in bytes.
        sample_bytes: the size of the decompressed samples in bytes.
        passes: the number of coded passes over all samples. A scan of a progressive JPEG may cover a part of them.
        channels: the number of samples per pixel that the decoder stores.
    """

    method: str
    nbytes: int
    sample_bytes: int
    passes: float = 1.0
    channels: int = 3


class Scan(NamedTuple):
    """A scanned file.

    Attributes:
        header: what the file declares.
        parts: the parts of the file that the pixels need. Joined, they are a valid file.
        coding: how the pixels are stored.
        boundaries: positions in the joined parts at which decoding can stop, in addition to those that the size of a
            piece gives.
    """

    header: Header
    parts: Iterable[Buffer]
    coding: Coding
    boundaries: Sequence[int] = ()


class ImageTooLarge(InvalidRequest):
    """The error for an image with more pixels than `max_pixels`."""

    def __init__(self, header: Header, max_pixels: int) -> None:
        super().__init__(
            f"the {header.format} image is {header.width} x {header.height} = {header.width * header.height} pixels, "
            f"and this server reads at most {max_pixels}; scale it down first",
            field="image.data",
        )


def invalid_image(reason: str) -> InvalidRequest:
    """Return the error for an image that cannot be decoded."""
    return InvalidRequest(reason, field="image.data")


def truncated_file(format: str, where: str) -> InvalidRequest:
    """Return the error for a file that ends too early."""
    return invalid_image(f"the {format} file ends inside {where}; send the complete file")


def too_many_blocks(format: str, blocks: str) -> InvalidRequest:
    """Return the error for a file with more blocks than MAX_BLOCKS."""
    return invalid_image(
        f"the {format} file has more than {MAX_BLOCKS} {blocks}; save the image again without metadata"
    )
