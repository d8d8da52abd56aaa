"""The progress of a `poolservice map` run on disk, so that an interrupted run can be resumed.

Until features.npz is complete, the folder features.npz.partial beside it has:

job.json        the job: the operators, the options and the list of files
progress.jsonl  one line per checkpoint: the number of files that are done, and those that failed since the last line
*.npy           the rows of the files that did not fail, in the files' order

A checkpoint first flushes the rows to disk and then writes the line that counts them. Rows without a line do not count,
so a run can be resumed however it ended: by Ctrl-C, a crash or a power failure.
"""

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from numpy.typing import NDArray

from poolservice_client._cli.exit_errors import CommandError, UsageError
from poolservice_client._cli.npy_writer import NpyWriter, RowType

_VERSION = 1
_CHECKPOINT_SECONDS = 1.0
_CHECKPOINT_BYTES = 32 * 2**20


class Journal:
    """The progress of one run. Each file becomes one row of every column, or fails.

    Attributes:
        folder: the journal's folder.
        names: the names of the columns.
        total: the number of files.
        done: the number of files that are done, which are the first ones.
        saved: the number of files up to the last checkpoint. A resumed run does not repeat them.
        failures: the reason for each failure, by the file's index.
        columns: the rows of each column, by its name; empty until the first checkpoint with a row.
    """

    def __init__(self, folder: Path, names: Sequence[str], total: int, progress: BinaryIO) -> None:
        self.folder = folder
        self.total = total
        self.done = 0
        self.saved = 0
        self.failures: dict[int, str] = {}
        self.columns: dict[str, NpyWriter] = {}
        self.names = names
        self._progress = progress
        self._rows: list[Mapping[str, NDArray[Any]]] = []
        self._row_bytes = 0
        self._row_types: dict[str, RowType] = {}
        self._saved_at = time.monotonic()

    @classmethod
    def open(
        cls, output: Path, job: Mapping[str, Any], names: Sequence[str], inputs: Sequence[str], *, restart: bool
    ) -> "Journal":
        """Create the journal for `output`, or resume the one that an interrupted run left.

        Args:
            output: the file that the run will write.
            job: the operators and options; must be JSON-serializable.
            names: the names of the columns.
            inputs: the files.
            restart: whether to discard an existing journal.

        Raises:
            UsageError: the existing journal is for other files, operators or options.
            CommandError: another process uses the journal, or it cannot be read.
            OSError: the folder cannot be created or written.
        """
        folder = output.with_name(f"{output.name}.partial")
        description = {"version": _VERSION, **job, "files": len(inputs), "list": _digest(inputs)}
        if restart and folder.exists():
            _lock(folder).close()
            shutil.rmtree(folder)
        folder.mkdir(exist_ok=True)
        progress = _lock(folder)
        try:
            has_progress = bool(progress.seek(0, os.SEEK_END))
            _check_or_write_job(folder, description, has_progress=has_progress)
            progress.seek(0)
            journal = cls(folder, names, len(inputs), progress)
            journal._load()
        except BaseException:
            progress.close()
            raise
        return journal

    def add_row(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Record the next file's results, one array per column; the file fails if a shape or dtype differs."""
        for name, array in arrays.items():
            row_type = self._row_types.setdefault(name, RowType.of(array))
            if row_type != RowType.of(array):
                self.add_failure(
                    f"its result is {RowType.of(array)} but the first file's is {row_type}, and all rows of an array "
                    "must agree; use a global or adaptive operator for images of different sizes"
                )
                return
        self._rows.append(arrays)
        self._row_bytes += sum(array.nbytes for array in arrays.values())
        self._advance()

    def add_failure(self, reason: str) -> None:
        """Record that the next file failed."""
        self.failures[self.done] = reason
        self._advance()

    def checkpoint(self) -> None:
        """Write all files that are done to disk."""
        if self._rows:
            for name in self.names:
                rows = [row[name] for row in self._rows]
                if name not in self.columns:
                    self.columns[name] = NpyWriter.create(self._path(name), self._row_types[name])
                self.columns[name].append(rows)
        failed = [[index, reason] for index, reason in self.failures.items() if index >= self.saved]
        if self.done > self.saved:
            self._progress.write(json.dumps({"done": self.done, "failed": failed}).encode() + b"\n")
            self._progress.flush()
            os.fsync(self._progress.fileno())
        self._rows, self._row_bytes, self.saved, self._saved_at = [], 0, self.done, time.monotonic()

    def close(self) -> None:
        """Close the files; what was recorded after the last checkpoint is lost."""
        for column in self.columns.values():
            column.close()
        self._progress.close()

    def remove(self) -> None:
        """Close and delete the journal."""
        self.close()
        shutil.rmtree(self.folder)

    def _advance(self) -> None:
        self.done += 1
        if self._row_bytes >= _CHECKPOINT_BYTES or time.monotonic() - self._saved_at >= _CHECKPOINT_SECONDS:
            self.checkpoint()

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    def _load(self) -> None:
        end = 0
        for line in self._progress:
            # A run that ended while it wrote a line leaves an incomplete one.
            if not line.endswith(b"\n"):
                break
            end += len(line)
            checkpoint = json.loads(line)
            self.done = self.saved = checkpoint["done"]
            self.failures |= dict(checkpoint["failed"])
        self._progress.truncate(end)
        self._progress.seek(end)
        rows = self.done - len(self.failures)
        if not rows:
            return
        for name in self.names:
            try:
                self.columns[name] = NpyWriter.reopen(self._path(name), rows)
            except (OSError, ValueError) as error:
                raise CommandError(f"{self.folder} cannot be resumed: {error}; give --restart to start over") from None
            self._row_types[name] = self.columns[name].row_type


def _check_or_write_job(folder: Path, description: Mapping[str, Any], *, has_progress: bool) -> None:
    """Check that the journal is for this job; a journal without progress becomes one for this job."""
    path = folder / "job.json"
    if not has_progress:
        temporary = folder / "job.json.new"
        temporary.write_text(json.dumps(description, indent=2))
        temporary.replace(path)
        return
    existing = json.loads(path.read_text())
    for name in ("files", *description):
        if existing.get(name) != description[name]:
            difference = (
                "other files"
                if name == "list"
                else f"{name} = {_as_text(existing.get(name))}, not {_as_text(description[name])}"
            )
            raise UsageError(
                f"{folder} belongs to another command, with {difference}; run that command again to resume it, or give "
                "--restart to start over"
            )


def _as_text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _digest(inputs: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(inputs).encode("utf-8", "surrogateescape")).hexdigest()


def _lock(folder: Path) -> BinaryIO:
    """Open the progress file and lock it until it is closed or this process ends."""
    path = folder / "progress.jsonl"
    path.touch()
    file = path.open("r+b")
    if sys.platform != "win32":
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise CommandError(
                f"another process is working on {folder}; wait for it, or write to another file"
            ) from None
    return file
