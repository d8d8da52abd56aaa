"""What a scanner finds in a file, and how it refuses one."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from poolservice.errors import InvalidRequest

Buffer = bytes | bytearray | memoryview

#: The chunks, segments or sub-blocks that a file may have. Honest files stay far below, and walking more would let a
#: file of empty ones hold a thread for seconds.
MAX_BLOCKS = 20_000


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of its picture before a pixel is decoded.

    Attributes:
        format: one of FORMATS.
        width: the stored width in pixels, before the orientation is applied.
        height: the stored height in pixels.
        orientation: how EXIF says the picture is to be turned, 1 (as it is) to 8.
    """

    format: str
    width: int
    height: int
    orientation: int = 1

    @property
    def upright(self) -> tuple[int, int]:
        """Height and width of the picture once it is turned, as `decode` returns it."""
        return (self.width, self.height) if self.orientation >= 5 else (self.height, self.width)


class Scan(NamedTuple):
    """A file that was walked: its header, and the parts that make pixels, which joined are a file again."""

    header: Header
    parts: Iterable[Buffer]


def refusal(reason: str) -> InvalidRequest:
    """The error for a picture that is not read."""
    return InvalidRequest(reason, field="image.data")


def truncated(format: str, where: str) -> InvalidRequest:
    """The error for a file that ends too early."""
    return refusal(f"the {format} file ends inside {where}; send the complete file")


def too_many_blocks(format: str, blocks: str) -> InvalidRequest:
    """The error for a file that is all structure and no picture."""
    return refusal(f"the {format} file has more than {MAX_BLOCKS} {blocks}; save the picture again without metadata")
