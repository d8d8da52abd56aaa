"""The progress of a `poolservice map` run on disk, so that an interrupted run can be resumed.

Until features.npz is complete, the folder features.npz.partial beside it has:

journal.jsonl   the first line has the job: the operators and options, and the list of files. Each further line is one
                checkpoint: the files that were done since the last one, with the index of each row or the reason why
                there is none; or a new list of files. Each line begins with a checksum.
*.npy           the rows, in the order in which the files were done

A checkpoint first flushes the rows to disk and then writes the line that names their files. Rows without a line do not
count, so a run can be resumed however it ended: by Ctrl-C, a crash, a full disk or a power failure.
"""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from poolservice_client._cli.exit_errors import UsageError
from poolservice_client._cli.input_files import Entry, Stamp, WorkList, work_list
from poolservice_client._cli.journal_file import JournalFile
from poolservice_client._cli.npy_writer import NpyWriter, RowType

_VERSION = 2
_CHECKPOINT_SECONDS = 1.0
_CHECKPOINT_BYTES = 32 * 2**20


class Journal:
    """The progress of one run. Each file becomes one row of every column, or fails.

    Attributes:
        folder: the journal's folder.
        names: the names of the columns.
        work: the files of the run, and those that were pending when it started or was resumed.
        entries: the outcome of each file that is done, by its path.
        done: the number of files that are done.
        saved: the number of files that were done at the last checkpoint. A resumed run does not repeat them.
        failed: the number of files that failed.
        columns: the rows of each column, by its name; empty until the first checkpoint with a row.
    """

    def __init__(self, file: JournalFile, names: Sequence[str]) -> None:
        self.folder = file.folder
        self.names = names
        self.work = WorkList([], [], [], [])
        self.entries: dict[str, Entry] = {}
        self.done = self.saved = self.failed = 0
        self.columns: dict[str, NpyWriter] = {}
        self._file = file
        self._row_types: dict[str, RowType] = {}
        # The number of rows, and those that are not on disk yet, with the paths that the next line will name.
        self._row_count = 0
        self._rows: list[Mapping[str, NDArray[Any]]] = []
        self._row_bytes = 0
        self._unsaved: list[str] = []
        self._saved_at = time.monotonic()

    @classmethod
    def open(
        cls,
        output: Path,
        job: Mapping[str, Any],
        names: Sequence[str],
        inputs: Sequence[str],
        *,
        restart: bool,
        update: bool,
    ) -> "Journal":
        """Create the journal for `output`, or resume the one that an interrupted run left.

        Args:
            output: the file that the run will write.
            job: the operators and options, and the backbone with its fingerprint; must be JSON-serializable.
            names: the names of the columns.
            inputs: the files.
            restart: whether to discard an existing journal.
            update: whether `inputs` replace the files of an existing journal.

        Raises:
            UsageError: the existing journal is for other files, operators or options.
            CommandError: another process uses the journal, or it is damaged.
            OSError: the folder cannot be created or written.
        """
        folder = output.with_name(f"{output.name}.partial")
        if folder.is_symlink():
            folder = Path(os.path.realpath(folder))
        journal = cls(JournalFile.open(folder), names)
        try:
            if restart:
                journal._start_over()
            journal._resume(job, inputs, update=update)
        except BaseException:
            journal.close()
            raise
        return journal

    @property
    def total(self) -> int:
        """The number of files."""
        return len(self.work.files)

    def add_row(self, path: str, stamp: Stamp, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Record a file's results, one array per column; the file fails if a shape or dtype differs."""
        for name, array in arrays.items():
            row_type = self._row_types.setdefault(name, RowType.of(array))
            if row_type != RowType.of(array):
                reason = (
                    f"its result is {RowType.of(array)} but the first file's is {row_type}, and all rows of an array "
                    "must agree; for images of different sizes, use a global or adaptive operator"
                )
                self.add_failure(path, stamp, reason)
                return
        self._rows.append(arrays)
        self._row_bytes += sum(array.nbytes for array in arrays.values())
        self._add(path, Entry(stamp, self._row_count, ""))
        self._row_count += 1
        self._checkpoint_if_due()

    def add_failure(self, path: str, stamp: Stamp, reason: str) -> None:
        """Record that a file failed."""
        self.failed += 1
        self._add(path, Entry(stamp, None, reason))
        self._checkpoint_if_due()

    def checkpoint(self) -> None:
        """Write all files that are done to disk.

        Raises:
            OSError: a file cannot be written; it names the file.
        """
        if not self._unsaved:
            return
        checksums = {}
        if self._rows:
            for name in self.names:
                rows = [row[name] for row in self._rows]
                if name not in self.columns:
                    self.columns[name] = NpyWriter.create(self._path(name), self._row_types[name])
                checksums[name] = self.columns[name].append(rows)
        line = {
            "rows": len(self._rows),
            "checksums": checksums,
            "types": {name: str(self._row_types[name]) for name in checksums},
            "done": [[path, *self.entries[path]] for path in self._unsaved],
        }
        self._file.append(line)
        self._rows, self._row_bytes, self._unsaved = [], 0, []
        self.saved, self._saved_at = self.done, time.monotonic()

    def ordered_rows(self) -> tuple[Path, list[str]]:
        """Return the folder that has each column's rows as NAME.npy in the order of the files, and the files' paths.

        All files must be done and on disk.
        """
        paths = [path for path in self.work.files if self.entries[path].row is not None]
        if not paths:
            return self.folder, paths
        order = [row for path in paths if (row := self.entries[path].row) is not None]
        if order == list(range(self._row_count)):
            return self.folder, paths
        folder = self.folder / "ordered"
        folder.mkdir(exist_ok=True)
        for column in self.columns.values():
            column.copy_rows(order, folder / column.path.name)
        return folder, paths

    def close(self) -> None:
        """Close the files; what was recorded after the last checkpoint is lost."""
        for column in self.columns.values():
            column.close()
        self._file.close()

    def remove(self) -> None:
        """Close and delete the journal."""
        for column in self.columns.values():
            column.close()
        self._file.remove_folder()

    def _add(self, path: str, entry: Entry) -> None:
        self.entries[path] = entry
        self._unsaved.append(path)
        self.done += 1

    def _checkpoint_if_due(self) -> None:
        if self._row_bytes >= _CHECKPOINT_BYTES or time.monotonic() - self._saved_at >= _CHECKPOINT_SECONDS:
            self.checkpoint()

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    def _start_over(self) -> None:
        """Delete the journal and create an empty one."""
        self.remove()
        self.columns.clear()
        self.entries.clear()
        self._row_types.clear()
        self._row_count = 0
        self._file = JournalFile.open(self.folder)

    def _resume(self, job: Mapping[str, Any], inputs: Sequence[str], *, update: bool) -> None:
        records = self._file.read()
        earlier = self._load(records, job)
        # If no file is done, the files of the earlier run do not matter.
        work = WorkList(list(inputs), list(inputs), [], [])
        if self.entries:
            work = work_list(earlier, self.entries, inputs, update=update, job=str(self.folder))
        if not self._has_rows(work):
            # No row is kept, so the rows of this run may have another type.
            if records:
                self._start_over()
            self._file.append({"version": _VERSION, "job": job, "files": work.files})
            work = work._replace(pending=work.files)
        elif work.files != earlier:
            self._file.append({"files": work.files})
        for path in work.pending:
            self.entries.pop(path, None)
        self.work = work
        self.done = self.saved = len(work.files) - len(work.pending)
        self.failed = sum(path in self.entries and self.entries[path].row is None for path in work.files)

    def _load(self, records: Sequence[Mapping[str, Any]], job: Mapping[str, Any]) -> list[str]:
        """Load the checkpoints; return the list of files."""
        if not records:
            return []
        header, *lines = records
        if header.get("version") != _VERSION:
            raise self._file.damaged("was begun by a newer version of poolservice", of=self.folder)
        if not lines:
            return []
        _check_job(self.folder, header["job"], job)
        files: list[str] = header["files"]
        appended: dict[str, list[tuple[int, int]]] = {name: [] for name in self.names}
        types: dict[str, str] = {}
        for line in lines:
            if "files" in line:
                files = line["files"]
                continue
            self._row_count += line["rows"]
            types |= line["types"]
            for name, checksum in line["checksums"].items():
                appended[name].append((line["rows"], checksum))
            for path, stamp, row, reason in line["done"]:
                self.entries[path] = Entry(None if stamp is None else tuple(stamp), row, reason)
        self._open_columns(types, appended)
        return files

    def _open_columns(self, types: Mapping[str, str], appended: Mapping[str, Sequence[tuple[int, int]]]) -> None:
        for name, row_type in types.items():
            try:
                column = self.columns[name] = NpyWriter.reopen(self._path(name), row_type, appended[name])
            except OSError as error:
                raise self._file.damaged(f"cannot be read ({error.strerror})", of=self._path(name)) from None
            except ValueError as error:
                raise self._file.damaged(f"is damaged ({error})", of=self._path(name)) from None
            self._row_types[name] = column.row_type

    def _has_rows(self, work: WorkList) -> bool:
        """Return True if a file that need not be pooled again has a row."""
        pending = frozenset(work.pending)
        return any(
            path in self.entries and self.entries[path].row is not None for path in work.files if path not in pending
        )


def _check_job(folder: Path, existing: Mapping[str, Any], job: Mapping[str, Any]) -> None:
    for name, value in job.items():
        if existing.get(name) == value:
            continue
        if name == "fingerprint":
            raise UsageError(
                f"the rows in {folder} were made by another model or preprocessing: the fingerprint of "
                f"{job['backbone']} was {existing.get(name)} and is now {value}, and features of both cannot be "
                "compared; resume with a server that has the earlier one, or give --restart to start over"
            )
        raise UsageError(
            f"{folder} belongs to another command, with {name} = {_as_text(existing.get(name))}, not "
            f"{_as_text(value)}; run that command again to resume it, or give --restart to start over"
        )


def _as_text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
