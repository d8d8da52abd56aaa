"""Samples the resident memory of a server, its workers included."""

import contextlib
import threading
import time
from types import TracebackType
from typing import Self

import psutil

_INTERVAL_SECONDS = 0.02


class MemorySampler:
    """A thread that samples the memory of a process and its children; use it as a context manager.

    Attributes:
        start: bytes when `begin` was called.
        peak: the most bytes since then.
        processes: the process ids that were seen.
    """

    def __init__(self, pid: int) -> None:
        self.start = self.peak = 0
        self.processes: set[int] = set()
        self._process = psutil.Process(pid)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def begin(self) -> None:
        """Start measuring the peak."""
        self.start = self.peak = self._read()

    def settle(self, seconds: float, kept: int) -> int:
        """Wait until the server has given back all but `kept` bytes, at most `seconds`; return the bytes it keeps."""
        deadline = time.monotonic() + seconds
        while (now := self._read() - self.start) > kept and time.monotonic() < deadline:
            self._stop.wait(_INTERVAL_SECONDS)
        return now

    def _sample(self) -> None:
        while not self._stop.wait(_INTERVAL_SECONDS):
            self.peak = max(self.peak, self._read())

    def _read(self) -> int:
        total = 0
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in (self._process, *self._process.children(recursive=True)):
                # A worker may end between the list and the reading.
                with contextlib.suppress(psutil.NoSuchProcess):
                    total += process.memory_info().rss
                    self.processes.add(process.pid)
        return total
