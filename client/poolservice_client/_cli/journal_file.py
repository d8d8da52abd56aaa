"""The file of a journal: one JSON object per line, each with a checksum, in a folder that one process uses at a time.

A line counts once it is complete. An incomplete last line, which an interrupted write leaves, is removed when the file
is read. A complete line with a wrong checksum means that the file is damaged.
"""

import json
import os
import shutil
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from poolservice_client._cli.exit_errors import CommandError, naming

_NAME = "journal.jsonl"
# Version 1 of the journal has this file.
_OLD_NAME = "job.json"


class JournalFile:
    """The journal file in a folder, locked until it is closed or this process ends.

    Attributes:
        folder: the folder.
        path: the file.
    """

    def __init__(self, folder: Path, file: BinaryIO) -> None:
        self.folder = folder
        self.path = folder / _NAME
        self._file = file

    @classmethod
    def open(cls, folder: Path) -> "JournalFile":
        """Open the file in `folder`; create both if they do not exist.

        Raises:
            CommandError: another process has it open, or the file system has no locks.
            OSError: the folder or the file cannot be created or written.
        """
        while True:
            folder.mkdir(exist_ok=True)
            # Unbuffered, because a buffer would keep the data of a failed write and write it later.
            try:
                file = os.fdopen(os.open(folder / _NAME, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)
            except FileNotFoundError:
                if folder.is_dir():
                    raise
                # Another process has just removed the folder.
                continue
            try:
                _lock(file, folder)
                if _is_at(file, folder / _NAME):
                    return cls(folder, file)
            except BaseException:
                # Also after Ctrl-C: the caller gets no file that it could close.
                file.close()
                raise
            file.close()

    def read(self) -> list[dict[str, Any]]:
        """Return all complete lines, and remove an incomplete last one.

        Raises:
            CommandError: the file is damaged, or an older version of the command wrote the journal.
        """
        self._file.seek(0)
        data = self._file.read()
        complete = data[: data.rfind(b"\n") + 1]
        records = [self._parse(number, line) for number, line in enumerate(complete.splitlines(), 1)]
        if not records:
            if (self.folder / _OLD_NAME).exists():
                raise self.damaged("was begun by an older version of poolservice", of=self.folder)
            # The first line is on disk before the first row, so it was lost if there are rows without it.
            if any(self.folder.glob("*.npy")):
                raise self.damaged("has lost its first line")
        self._file.truncate(len(complete))
        self._file.seek(len(complete))
        return records

    def append(self, record: Mapping[str, Any]) -> None:
        """Append a line and flush it to disk.

        Raises:
            OSError: the line cannot be written; it names the file.
        """
        text = json.dumps(record).encode()
        line = memoryview(b"%08x %b\n" % (zlib.crc32(text), text))
        with naming(self.path):
            while line:
                line = line[self._file.write(line) :]
            os.fsync(self._file.fileno())

    def damaged(self, problem: str, *, of: Path | None = None) -> CommandError:
        """Return the error for a journal that cannot be resumed."""
        return CommandError(f"{of or self.path} {problem}, so the run cannot be resumed; give --restart to start over")

    def remove_folder(self) -> None:
        """Close the file and delete the folder. Another process finds either the whole folder or none."""
        removed = self.folder.with_name(f"{self.folder.name}.removed")
        shutil.rmtree(removed, ignore_errors=True)
        if sys.platform == "win32":
            # Windows does not rename a folder with open files.
            self.close()
        self.folder.rename(removed)
        self.close()
        shutil.rmtree(removed)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _parse(self, number: int, line: bytes) -> dict[str, Any]:
        checksum, _, text = line.partition(b" ")
        if checksum != b"%08x" % zlib.crc32(text):
            raise self.damaged(f"is damaged in line {number}")
        record: dict[str, Any] = json.loads(text)
        return record


def _lock(file: BinaryIO, folder: Path) -> None:
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise CommandError(f"another process is working on {folder}; wait for it, or write to another file") from None
    except OSError as error:
        raise CommandError(f"{folder} cannot be locked ({error.strerror}); write to a file on a local disk") from None


def _is_at(file: BinaryIO, path: Path) -> bool:
    """Return True if `path` still names the open file: another process may have removed it before it was locked."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
