"""An .npy file that rows are appended to, and that is a valid .npy file after each append."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray


class RowType(NamedTuple):
    """The shape and dtype that all rows of a file have in common.

    Attributes:
        shape: the shape of one row.
        dtype: the dtype of its elements.
    """

    shape: tuple[int, ...]
    dtype: "np.dtype[Any]"

    @classmethod
    def of(cls, row: NDArray[Any]) -> "RowType":
        """Return the row's type."""
        return cls(row.shape, row.dtype)

    def __str__(self) -> str:
        return f"{self.shape} {self.dtype.name}"


class NpyWriter:
    """The .npy file at `path`, an array of shape (rows, *row_type.shape) that stays on disk.

    numpy pads a header so that the length of the first axis can grow, so each append overwrites the header in place.
    """

    def __init__(self, path: Path, row_type: RowType, file: BinaryIO, rows: int) -> None:
        self.path = path
        self.row_type = row_type
        self.rows = rows
        self._file = file
        self._write_header()
        self._end = file.tell()

    @classmethod
    def create(cls, path: Path, row_type: RowType) -> "NpyWriter":
        """Create a file without rows; an existing file is replaced."""
        return cls(path, row_type, path.open("wb"), 0)

    @classmethod
    def reopen(cls, path: Path, rows: int) -> "NpyWriter":
        """Open the file at `path` and keep its first `rows` rows; incomplete data behind them is cut off.

        Raises:
            OSError: the file cannot be opened.
            ValueError: the file is not an .npy file, or has fewer rows.
        """
        with path.open("rb") as existing:
            np.lib.format.read_magic(existing)
            (_, *shape), _, dtype = np.lib.format.read_array_header_1_0(existing)
            row_type = RowType(tuple(shape), dtype)
            end = existing.tell() + rows * _row_bytes(row_type)
        if path.stat().st_size < end:
            raise ValueError(f"{path} has fewer than the expected {rows} rows")
        writer = cls(path, row_type, path.open("r+b"), rows)
        writer._file.truncate(end)
        writer._end = end
        return writer

    def append(self, rows: Sequence[NDArray[Any]]) -> None:
        """Append rows and flush them to disk."""
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
            "shape": (self.rows, *self.row_type.shape),
            "fortran_order": False,
            "descr": np.lib.format.dtype_to_descr(self.row_type.dtype),
        }
        np.lib.format.write_array_header_1_0(self._file, header)
        self._file.flush()


def _row_bytes(row_type: RowType) -> int:
    return row_type.dtype.itemsize * int(np.prod(row_type.shape, dtype=np.int64))
