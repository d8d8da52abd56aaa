"""The file that `poolservice map` writes: its format, and how it replaces an existing file atomically."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from poolservice_client._cli import dependencies
from poolservice_client._cli.exit_errors import UsageError, naming
from poolservice_client._cli.message_text import join_or
from poolservice_client._cli.operator_parser import Operator, array_names
from poolservice_client._cli.pool_output import check_folder

#: The memory-mapped rows of each column, by its name.
Columns = Mapping[str, NDArray[Any]]

# The rows of a .parquet file are converted in slices of about this size.
_SLICE_BYTES = 16 * 2**20


@dataclass(frozen=True)
class FeatureFile:
    """A file with one row of results for each input file.

    .npz      the array "features", or one for each of several operators by its name, and "paths"
    .npy      the array of one operator, for memory mapping; NAME.paths.txt has the paths, one per line
    .parquet  the columns "path" and "features", or one for each of several operators; rows are flat

    Attributes:
        path: the file.
        names: the names of the columns.
    """

    path: Path
    names: tuple[str, ...]

    @classmethod
    def of(cls, path: Path, operators: Sequence[Operator], *, flat: bool) -> "FeatureFile":
        """Return the feature file `path`, after checking that it can hold the operators' results.

        Raises:
            UsageError: the suffix is not supported or cannot hold these results, or the folder does not exist.
            CommandError: the format needs a package that is not installed.
        """
        # A symbolic link is kept, and the file that it points to is replaced.
        target = Path(os.path.realpath(path)) if path.is_symlink() else path
        file = cls(target, tuple(_column_names(operators)))
        if file.suffix not in _WRITERS:
            raise UsageError(f"-o {path}: the file's name must end in {join_or(tuple(_WRITERS))}")
        if file.suffix == ".npy" and len(file.names) > 1:
            raise UsageError(f"-o {path}: {len(file.names)} results do not fit one array; write to an .npz file")
        if file.suffix == ".parquet":
            if not flat:
                raise UsageError(
                    f"-o {path}: the rows of a .parquet file are flat; leave --tensors out, or write an .npz file"
                )
            dependencies.require(f"-o {path}", "pyarrow.parquet")
        check_folder(f"-o {path}", path)
        return file

    @property
    def suffix(self) -> str:
        """The suffix of the file's name, in lower case."""
        return self.path.suffix.lower()

    @property
    def list_path(self) -> Path:
        """The file with the paths of an .npy file's rows."""
        return self.path.with_name(f"{self.path.stem}.paths.txt")

    def check_paths(self, paths: Sequence[str]) -> None:
        """Check that the file can hold the paths.

        Raises:
            UsageError: the list of paths beside an .npy file would be ambiguous.
        """
        if self.suffix == ".npy" and (broken := next((path for path in paths if "\n" in path), None)):
            raise UsageError(
                f"-o {self.path}: the list of paths has one path per line, and {broken!r} has a line break; write an "
                ".npz file"
            )

    def write(self, folder: Path, paths: Sequence[str]) -> None:
        """Assemble the file in `folder`, which has each column's rows as NAME.npy, and move it into place.

        If the process is interrupted, the path has either the previous file or the complete new one, and `folder` can
        be used again.

        Raises:
            OSError: the file cannot be written; it names the file.
        """
        columns = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in self.names}
        with naming(self.path):
            _WRITERS[self.suffix](self, folder, columns, paths)


def _write_npz(file: FeatureFile, folder: Path, columns: Columns, paths: Sequence[str]) -> None:
    arrays: dict[str, Any] = dict(columns)
    temporary = folder / "complete"
    with temporary.open("wb") as archive:
        np.savez(archive, **arrays, paths=np.array(paths))
        os.fsync(archive.fileno())
    temporary.replace(file.path)


def _write_npy(file: FeatureFile, folder: Path, columns: Columns, paths: Sequence[str]) -> None:
    path_list, temporary = folder / "paths.txt", folder / "complete"
    path_list.write_text("".join(f"{path}\n" for path in paths), encoding="utf-8")
    # A hard link avoids a copy of the rows where the file system supports it.
    temporary.unlink(missing_ok=True)
    rows = folder / f"{file.names[0]}.npy"
    try:
        temporary.hardlink_to(rows)
    except OSError:
        shutil.copyfile(rows, temporary)
    path_list.replace(file.list_path)
    temporary.replace(file.path)


def _write_parquet(file: FeatureFile, folder: Path, columns: Columns, paths: Sequence[str]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    sizes = {name: int(np.prod(rows.shape[1:], dtype=np.int64)) for name, rows in columns.items()}
    types = {name: pa.list_(pa.from_numpy_dtype(rows.dtype), sizes[name]) for name, rows in columns.items()}
    schema = pa.schema([("path", pa.string()), *types.items()])
    temporary = folder / "complete"
    with parquet.ParquetWriter(temporary, schema) as writer:
        for start, stop in _slices(columns, len(paths)):
            arrays = [pa.array(paths[start:stop], pa.string())]
            for name, rows in columns.items():
                values = pa.array(np.ascontiguousarray(rows[start:stop]).reshape(-1))
                arrays.append(pa.FixedSizeListArray.from_arrays(values, sizes[name]))
            writer.write_batch(pa.record_batch(arrays, schema=schema))
    with temporary.open("rb") as complete:
        os.fsync(complete.fileno())
    temporary.replace(file.path)


_WRITERS: Mapping[str, Callable[[FeatureFile, Path, Columns, Sequence[str]], None]] = MappingProxyType(
    {".npz": _write_npz, ".npy": _write_npy, ".parquet": _write_parquet}
)


def _slices(columns: Columns, count: int) -> Iterator[tuple[int, int]]:
    """Return the bounds of slices of `count` rows, each of about `_SLICE_BYTES`."""
    row_bytes = sum(rows.nbytes for rows in columns.values()) // count
    step = max(_SLICE_BYTES // max(row_bytes, 1), 1)
    return ((start, min(start + step, count)) for start in range(0, count, step))


def _column_names(operators: Sequence[Operator]) -> Iterator[str]:
    """Yield a name for each array: "features" and "indices" of one operator, else max2d, max2d_2, max2d_2_indices."""
    single = len(operators) == 1
    for operator, name in zip(operators, array_names(operators), strict=True):
        yield "features" if single else name
        if operator.returns_indices:
            yield "indices" if single else f"{name}_indices"
