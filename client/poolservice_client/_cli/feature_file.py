"""The file that a map's results end in: its form, and how it is put together and into place."""

import importlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from poolservice_client._cli.errors import Failure, Usage
from poolservice_client._cli.operators import Operator
from poolservice_client._cli.results import check_folder, in_words

#: A column's rows by its name, memory-mapped.
Columns = Mapping[str, NDArray[Any]]

_ROWS_BYTES = 16 * 2**20


@dataclass(frozen=True)
class FeatureFile:
    """Where the results of many files go, one row for each.

    .npz      the array "features", or one for each of several operators by its name, and "paths"
    .npy      the array of one operator, to be memory-mapped; the paths beside it, one a line, in NAME.paths.txt
    .parquet  the columns "path" and "features", or one for each of several operators; rows are flat
    """

    path: Path
    names: tuple[str, ...]

    @classmethod
    def of(cls, path: Path, operators: Sequence[Operator], *, flat: bool) -> "FeatureFile":
        """The file `path`, known to hold what `operators` give.

        Raises:
            Usage: the suffix is none that is written, or does not hold these results.
            Failure: it needs what is not installed.
        """
        file = cls(path, tuple(_names(operators)))
        if file.suffix not in _WRITERS:
            raise Usage(f"-o {path}: the file's name must end in {in_words(tuple(_WRITERS))}")
        if file.suffix == ".npy" and len(file.names) > 1:
            raise Usage(f"-o {path}: {len(file.names)} results do not fit one array; write to an .npz file")
        if file.suffix == ".parquet":
            if not flat:
                raise Usage(
                    f"-o {path}: the rows of a .parquet file are flat; leave --tensors out, or write an .npz file"
                )
            try:
                importlib.import_module("pyarrow.parquet")
            except ImportError:
                raise Failure(
                    f"-o {path}: to write it needs pyarrow; install it with: pip install 'poolservice[parquet]'"
                ) from None
        check_folder(f"-o {path}", path)
        return file

    @property
    def suffix(self) -> str:
        """Of the file's name, in lower case."""
        return self.path.suffix.lower()

    @property
    def list_path(self) -> Path:
        """Where the paths of an .npy file's rows go."""
        return self.path.with_name(f"{self.path.stem}.paths.txt")

    def write(self, folder: Path, paths: Sequence[str]) -> None:
        """Put it together in `folder`, which has each column's rows as NAME.npy, and move it into place at once.

        An interruption leaves either what was there before or the whole file, and `folder` as it was.

        Raises:
            OSError: it cannot be written.
        """
        columns = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in self.names}
        _WRITERS[self.suffix](self, folder, columns, paths)


def _write_npz(file: FeatureFile, folder: Path, columns: Columns, paths: Sequence[str]) -> None:
    written = folder / "whole"
    with written.open("wb") as archive:
        np.savez(archive, **_named(columns), paths=np.array(paths))
        os.fsync(archive.fileno())
    written.replace(file.path)


def _write_npy(file: FeatureFile, folder: Path, columns: Columns, paths: Sequence[str]) -> None:
    listed, written = folder / "paths.txt", folder / "whole"
    listed.write_text("".join(f"{path}\n" for path in paths), encoding="utf-8")
    # The rows themselves, not a copy of them, where the file system has a second name for a file.
    written.unlink(missing_ok=True)
    rows = folder / f"{file.names[0]}.npy"
    try:
        written.hardlink_to(rows)
    except OSError:
        shutil.copyfile(rows, written)
    listed.replace(file.list_path)
    written.replace(file.path)


def _write_parquet(file: FeatureFile, folder: Path, columns: Columns, paths: Sequence[str]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    sizes = {name: int(np.prod(rows.shape[1:], dtype=np.int64)) for name, rows in columns.items()}
    kinds = {name: pa.list_(pa.from_numpy_dtype(rows.dtype), sizes[name]) for name, rows in columns.items()}
    schema = pa.schema([("path", pa.string()), *kinds.items()])
    written = folder / "whole"
    with parquet.ParquetWriter(written, schema) as writer:
        for start, stop in _slices(columns, len(paths)):
            arrays = [pa.array(paths[start:stop], pa.string())]
            for name, rows in columns.items():
                values = pa.array(np.ascontiguousarray(rows[start:stop]).reshape(-1))
                arrays.append(pa.FixedSizeListArray.from_arrays(values, sizes[name]))
            writer.write_batch(pa.record_batch(arrays, schema=schema))
    with written.open("rb") as whole:
        os.fsync(whole.fileno())
    written.replace(file.path)


_WRITERS: Mapping[str, Callable[[FeatureFile, Path, Columns, Sequence[str]], None]] = MappingProxyType(
    {".npz": _write_npz, ".npy": _write_npy, ".parquet": _write_parquet}
)


def _slices(columns: Columns, count: int) -> Iterator[tuple[int, int]]:
    """So many rows at a time that they fit into a little memory."""
    row_bytes = sum(rows.nbytes for rows in columns.values()) // count
    step = max(_ROWS_BYTES // max(row_bytes, 1), 1)
    return ((start, min(start + step, count)) for start in range(0, count, step))


def _names(operators: Sequence[Operator]) -> Iterator[str]:
    """A name for each array: "features" and "indices" of one operator, else max2d, max2d_2, max2d_2_indices."""
    taken: set[str] = set()
    for operator in operators:
        name, again = operator.name, 1
        while name in taken:
            again += 1
            name = f"{operator.name}_{again}"
        taken.add(name)
        single = len(operators) == 1
        yield "features" if single else name
        if getattr(operator.spec, "return_indices", False):
            yield "indices" if single else f"{name}_indices"


def _named(columns: Columns) -> dict[str, Any]:
    # As numpy's stubs want the arrays that are given by name.
    return dict(columns)
