"""An .npy file that gains rows, and is a whole .npy file each time that it has gained some."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray


class RowKind(NamedTuple):
    """What all rows of a file have in common.

    Attributes:
        shape: of one row.
        dtype: of its elements.
    """

    shape: tuple[int, ...]
    dtype: "np.dtype[Any]"

    @classmethod
    def of(cls, row: NDArray[Any]) -> "RowKind":
        """The kind of this row."""
        return cls(row.shape, row.dtype)

    def __str__(self) -> str:
        return f"{self.shape} {self.dtype.name}"


class GrowingArray:
    """The array of all rows that were written to `path`: (rows, *shape) on disk, nothing of it in memory.

    numpy leaves room in a header for its first axis to grow, so the header is written over in place.
    """

    def __init__(self, path: Path, kind: RowKind, file: BinaryIO, rows: int) -> None:
        self.path = path
        self.kind = kind
        self.rows = rows
        self._file = file
        self._write_header()
        self._end = file.tell()

    @classmethod
    def create(cls, path: Path, kind: RowKind) -> "GrowingArray":
        """A file without rows, in the place of one that is there."""
        return cls(path, kind, path.open("wb"), 0)

    @classmethod
    def reopen(cls, path: Path, rows: int) -> "GrowingArray":
        """The file at `path` with its first `rows` rows; what lies behind them was not finished and is cut off.

        Raises:
            OSError: it cannot be opened.
            ValueError: it is no such file, or has fewer rows.
        """
        with path.open("rb") as there:
            np.lib.format.read_magic(there)
            (_, *shape), _, dtype = np.lib.format.read_array_header_1_0(there)
            kind = RowKind(tuple(shape), dtype)
            end = there.tell() + rows * _row_bytes(kind)
        if path.stat().st_size < end:
            raise ValueError(f"{path} has fewer rows than the {rows} that were counted")
        grown = cls(path, kind, path.open("r+b"), rows)
        grown._file.truncate(end)
        grown._end = end
        return grown

    def write(self, rows: Sequence[NDArray[Any]]) -> None:
        """Write these behind the others, down to the disk."""
        self._file.seek(self._end)
        self._file.write(b"".join(np.ascontiguousarray(row).data for row in rows))
        self._end = self._file.tell()
        self.rows += len(rows)
        self._write_header()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write_header(self) -> None:
        self._file.seek(0)
        header = {
            "shape": (self.rows, *self.kind.shape),
            "fortran_order": False,
            "descr": np.lib.format.dtype_to_descr(self.kind.dtype),
        }
        np.lib.format.write_array_header_1_0(self._file, header)
        self._file.flush()


def _row_bytes(kind: RowKind) -> int:
    return kind.dtype.itemsize * int(np.prod(kind.shape, dtype=np.int64))
