"""What a map has done so far, on disk, so that one that was ended goes on where it was.

Beside features.npz lies features.npz.partial, a folder, until the file is finished:

job.json        what is being done: the files and what is asked about them
progress.jsonl  a line each second: how many files are done, and which of them failed since the line before
*.npy           the rows of the files that did not fail, in the files' order

A line is written after the rows that it counts are on the disk, and what is not counted by a line was not done. So
it makes no difference how a run ended: at Ctrl-C, in a crash, when the power failed.
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

from poolservice_client._cli.errors import Failure, Usage
from poolservice_client._cli.growing_array import GrowingArray, RowKind

_VERSION = 1
_CHECKPOINT_SECONDS = 1.0
_CHECKPOINT_BYTES = 32 * 2**20


class Journal:
    """The progress of one map over files, each of which becomes a row in every column, or fails.

    Attributes:
        folder: where it lies.
        names: of the columns.
        total: the number of files.
        done: the files that are done, which are the first ones.
        failures: why a file failed, by its index.
        columns: the rows of the others, by the column's name; empty until there is a row.
    """

    def __init__(self, folder: Path, names: Sequence[str], total: int, progress: BinaryIO) -> None:
        self.folder = folder
        self.total = total
        self.done = 0
        self.failures: dict[int, str] = {}
        self.columns: dict[str, GrowingArray] = {}
        self.names = names
        self._progress = progress
        self._kept = 0
        self._rows: list[Mapping[str, NDArray[Any]]] = []
        self._bytes = 0
        self._kinds: dict[str, RowKind] = {}
        self._checked = time.monotonic()

    @classmethod
    def open(
        cls, output: Path, job: Mapping[str, Any], names: Sequence[str], inputs: Sequence[str], *, restart: bool
    ) -> "Journal":
        """The journal of what is to become `output`: begun, or gone on with where one is there.

        Args:
            output: the file that is made.
            job: what is asked about each file; JSON can write it.
            names: of the columns.
            inputs: the files.
            restart: whether to forget what is there.

        Raises:
            Usage: what is there was begun for other files, or asked something else.
            Failure: another process is at it, or it cannot be read.
            OSError: the folder cannot be made or written.
        """
        folder = output.with_name(f"{output.name}.partial")
        wanted = {"version": _VERSION, **job, "files": len(inputs), "list": _digest(inputs)}
        if restart and folder.exists():
            _lock(folder).close()
            shutil.rmtree(folder)
        folder.mkdir(exist_ok=True)
        progress = _lock(folder)
        try:
            _agree(folder, wanted, begun=bool(progress.seek(0, os.SEEK_END)))
            progress.seek(0)
            journal = cls(folder, names, len(inputs), progress)
            journal._read()
        except BaseException:
            progress.close()
            raise
        return journal

    @property
    def kept(self) -> int:
        """How many files a run that goes on has not to do again."""
        return self._kept

    def row(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """The next file's results, a row for each column; of another shape or type than the first, it fails."""
        for name, array in arrays.items():
            kind = self._kinds.setdefault(name, RowKind.of(array))
            if kind != RowKind.of(array):
                self.fail(
                    f"its result is {RowKind.of(array)} where the first file's is {kind}, and one array holds rows of "
                    "one kind; a global or an adaptive operator gives that for pictures of any size"
                )
                return
        self._rows.append(arrays)
        self._bytes += sum(array.nbytes for array in arrays.values())
        self._advance()

    def fail(self, reason: str) -> None:
        """The next file failed."""
        self.failures[self.done] = reason
        self._advance()

    def checkpoint(self) -> None:
        """Bring what is done to the disk."""
        if self._rows:
            for name in self.names:
                rows = [row[name] for row in self._rows]
                if name not in self.columns:
                    self.columns[name] = GrowingArray.create(self._path(name), self._kinds[name])
                self.columns[name].write(rows)
        failed = [[index, reason] for index, reason in self.failures.items() if index >= self._kept]
        if self.done > self._kept:
            self._progress.write(json.dumps({"done": self.done, "failed": failed}).encode() + b"\n")
            self._progress.flush()
            os.fsync(self._progress.fileno())
        self._rows, self._bytes, self._kept, self._checked = [], 0, self.done, time.monotonic()

    def close(self) -> None:
        """Leave it as it is on the disk: what came after the last checkpoint is not kept."""
        for column in self.columns.values():
            column.close()
        self._progress.close()

    def remove(self) -> None:
        """Remove it, with what is left of its rows."""
        self.close()
        shutil.rmtree(self.folder)

    def _advance(self) -> None:
        self.done += 1
        if self._bytes >= _CHECKPOINT_BYTES or time.monotonic() - self._checked >= _CHECKPOINT_SECONDS:
            self.checkpoint()

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    def _read(self) -> None:
        end = 0
        for line in self._progress:
            # A line that was being written when the run ended counts for nothing.
            if not line.endswith(b"\n"):
                break
            end += len(line)
            said = json.loads(line)
            self.done = self._kept = said["done"]
            self.failures |= dict(said["failed"])
        self._progress.truncate(end)
        self._progress.seek(end)
        rows = self.done - len(self.failures)
        if not rows:
            return
        for name in self.names:
            try:
                self.columns[name] = GrowingArray.reopen(self._path(name), rows)
            except (OSError, ValueError) as error:
                raise Failure(f"{self.folder} cannot be gone on with: {error}; give --restart to begin again") from None
            self._kinds[name] = self.columns[name].kind


def _agree(folder: Path, wanted: Mapping[str, Any], *, begun: bool) -> None:
    """Find in the folder the job that is wanted; where nothing of one is done, write it there."""
    path = folder / "job.json"
    if not begun:
        written = folder / "job.json.new"
        written.write_text(json.dumps(wanted, indent=2))
        written.replace(path)
        return
    there = json.loads(path.read_text())
    for name in ("files", *wanted):
        if there.get(name) != wanted[name]:
            what = "other files" if name == "list" else f"{name} = {_say(there.get(name))}, not {_say(wanted[name])}"
            raise Usage(
                f"{folder} was begun by another command, with {what}; go on with the same arguments, or give "
                "--restart to begin again"
            )


def _say(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _digest(inputs: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(inputs).encode("utf-8", "surrogateescape")).hexdigest()


def _lock(folder: Path) -> BinaryIO:
    """The folder's list of progress, held by this process until it closes it or ends."""
    path = folder / "progress.jsonl"
    path.touch()
    file = path.open("r+b")
    if sys.platform != "win32":
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise Failure(f"another process is working on {folder}; wait for it, or write to another file") from None
    return file
