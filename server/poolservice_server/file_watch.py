"""Reads files again when they change, such as renewed certificates, without a restart."""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from poolservice_server.settings import SettingsError

_log = structlog.get_logger(__name__)

# A change is read after it has been the same for one interval, so that no half-written file is read.
_POLL_SECONDS = 1.0

# Identifies the content of files: modification time, size and inode of each; None for one that is missing.
_Signature = tuple[tuple[int, int, int] | None, ...]


class FileWatch:
    """Files that are read again when they change, and at SIGHUP.

    Attributes:
        counts: how often files were read again, by their name and outcome: "loaded", or "kept" if the new content
            cannot be used and the old one stays.
    """

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self._files: list[_Files] = []
        self._lock = threading.Lock()
        self._asked = threading.Event()

    @property
    def names(self) -> list[str]:
        """The names of all files that are watched."""
        return [files.name for files in self._files]

    def add(self, name: str, paths: Sequence[Path], load: Callable[[], None]) -> None:
        """Load files now, and again when they change.

        Args:
            name: names the files in the log and in the metrics.
            paths: the files.
            load: reads them and uses their content. If it raises SettingsError, it has changed nothing. Later calls
                come from another thread.

        Raises:
            SettingsError: the files cannot be used.
        """
        # Taken first: a change during the load is then noticed.
        signature = _signature(paths)
        load()
        self._files.append(_Files(name, paths, load, signature))

    def start(self) -> None:
        """Start the thread that notices changes."""
        threading.Thread(target=self._run, name="file-watch", daemon=True).start()

    def reload(self) -> None:
        """Ask the thread to read all files now, whether they changed or not."""
        self._asked.set()

    def poll(self, *, everything: bool = False) -> None:
        """Read the files that have changed and have not changed further since the last call, or all files."""
        with self._lock:
            for files in self._files:
                if files.is_due(everything=everything):
                    self.counts[files.name, self._load(files)] += 1

    def _run(self) -> None:
        while True:
            everything = self._asked.wait(_POLL_SECONDS if self._files else None)
            self._asked.clear()
            if everything:
                _log.info("reading the files again after SIGHUP", files=self.names)
            self.poll(everything=everything)

    def _load(self, files: "_Files") -> str:
        try:
            files.load()
        except SettingsError as error:
            _log.error("cannot use the new files, keeping the old ones", files=files.name, reason=str(error))
            return "kept"
        except Exception:  # noqa: BLE001 - the thread must go on, with the old files
            _log.exception("cannot use the new files, keeping the old ones", files=files.name)
            return "kept"
        _log.info("read the files again", files=files.name)
        return "loaded"


class _Files:
    """Files that belong together, such as a certificate and its key."""

    def __init__(self, name: str, paths: Sequence[Path], load: Callable[[], None], signature: _Signature) -> None:
        self.name = name
        self.load = load
        self._paths = paths
        self._loaded = self._seen = signature

    def is_due(self, *, everything: bool) -> bool:
        now = _signature(self._paths)
        due = everything or (now != self._loaded and now == self._seen)
        self._seen = now
        if due:
            self._loaded = now
        return due


def _signature(paths: Sequence[Path]) -> _Signature:
    return tuple(_signature_of_file(path) for path in paths)


def _signature_of_file(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
