"""An .npy file that rows are appended to, and that is a valid .npy file after each append."""

import os
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from poolservice_client._cli.exit_errors import naming

# Rows are copied in slices of about this size.
_SLICE_BYTES = 16 * 2**20


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
    def reopen(cls, path: Path, row_type: str, appended: Sequence[tuple[int, int]]) -> "NpyWriter":
        """Open the file at `path` and keep the rows that were appended; incomplete data after them is removed.

        Args:
            path: the file.
            row_type: the type of its rows, as text.
            appended: for each append, the number of rows and the checksum that it returned.

        Raises:
            OSError: the file cannot be opened.
            ValueError: the file is not an .npy file of such rows, has fewer rows, or its rows have changed.
        """
        _detach(path)
        with path.open("rb") as existing:
            np.lib.format.read_magic(existing)
            (_, *shape), _, dtype = np.lib.format.read_array_header_1_0(existing)
            found = RowType(tuple(shape), dtype)
            if str(found) != row_type:
                raise ValueError(f"it has rows of {found}, not {row_type}")
            for rows, checksum in appended:
                if zlib.crc32(existing.read(rows * _row_bytes(found))) != checksum:
                    raise ValueError("rows have changed or are missing")
            end = existing.tell()
        writer = cls(path, found, path.open("r+b"), sum(rows for rows, _ in appended))
        writer._file.truncate(end)
        writer._end = end
        return writer

    def append(self, rows: Sequence[NDArray[Any]]) -> int:
        """Append rows and flush them to disk; return a checksum of their bytes.

        Raises:
            OSError: the rows cannot be written; it names the file.
        """
        data = b"".join(np.ascontiguousarray(row).data for row in rows)
        with naming(self.path):
            self._file.seek(self._end)
            self._file.write(data)
            self._end = self._file.tell()
            self.rows += len(rows)
            self._write_header()
            os.fsync(self._file.fileno())
        return zlib.crc32(data)

    def copy_rows(self, indices: Sequence[int], target: Path) -> None:
        """Write the rows at `indices`, in this order, to a new .npy file.

        Raises:
            OSError: the file cannot be written; it names the file.
        """
        rows = np.load(self.path, mmap_mode="r")
        step = max(_SLICE_BYTES // max(_row_bytes(self.row_type), 1), 1)
        copy = NpyWriter.create(target, self.row_type)
        for start in range(0, len(indices), step):
            copy.append(list(rows[list(indices[start : start + step])]))
        copy.close()

    def close(self) -> None:
        """Close the file."""
        try:
            self._file.close()
        except OSError:
            # Closing repeats the write of an append that failed and was reported. The file is closed nevertheless.
            if not self._file.closed:
                raise

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


def _detach(path: Path) -> None:
    """Replace the file by a copy if a complete feature file is a hard link to it."""
    if path.stat().st_nlink > 1:
        copy = path.with_name(f"{path.name}.copy")
        shutil.copyfile(path, copy)
        copy.replace(path)
