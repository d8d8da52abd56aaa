"""A file that Pillow reads in pieces, so that decoding can end early."""

from bisect import bisect_right
from collections.abc import Sequence
from io import BytesIO

from poolservice_server.stop import Stop, WorkStopped


class StoppableFile(BytesIO):
    """A file in memory whose reads fail if nobody waits for the image any more.

    Args:
        data: the file.
        stop: returns True if nobody waits for the image any more.
        boundaries: positions in ascending order; a read with a size ends at the next one at the latest.
    """

    def __init__(self, data: bytes, stop: Stop, boundaries: Sequence[int] = ()) -> None:
        super().__init__(data)
        self._stop = stop
        self._boundaries = boundaries

    def read(self, size: int | None = -1, /) -> bytes:
        """Read at most `size` bytes.

        Raises:
            WorkStopped: nobody waits for the image any more.
        """
        if self._stop():
            raise WorkStopped
        if self._boundaries and size is not None and size > 0:
            position = self.tell()
            following = bisect_right(self._boundaries, position)
            if following < len(self._boundaries):
                size = min(size, self._boundaries[following] - position)
        return super().read(size)
