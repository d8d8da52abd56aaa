"""Turns what other code writes to standard error into log events.

C code (gRPC's core, libtiff), Python's own tracebacks and faulthandler write plain lines to file descriptor 2. In a
JSON log, each of them must become an event, too, and in the log of several workers, each must name its worker. The
descriptor therefore leads into a pipe, and a thread logs its lines.
"""

import logging
import os
import re
import selectors
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable

import structlog

# Foreign lines are logged under this name.
LOGGER = "poolservice_server.stderr"

_READ_BYTES = 65536
_MAX_LINE_BYTES = 8192
# Of the lines that gRPC's core writes at one place in its code, one is logged per interval. Callers can cause such
# lines as fast as they connect, for example with handshakes that fail.
_INTERVAL_SECONDS = 10.0
# The longest wait for the last lines when the process ends.
_LAST_LINES_SECONDS = 1.0

# The first characters of a line of absl, the log library of gRPC's core: level, date, time, thread, file and line.
_ABSL = re.compile(r"(?P<level>[IWEF])\d{4} \d\d:\d\d:\d\d(\S*\s+\d+ (?P<place>[\w./-]+:\d+)\])?")
_LEVELS = {"I": logging.INFO, "W": logging.WARNING, "E": logging.ERROR, "F": logging.CRITICAL}


class StderrPipe:
    """A pipe, and the thread that logs the lines that are written to it, until `stop` or until nobody can write to it.

    Args:
        worker: the number of the worker that writes to it, which each event then has; None for this process.

    Attributes:
        writable: the end to write to. Close it in this process once another one has it.
    """

    def __init__(self, worker: int | None = None) -> None:
        self._worker = worker
        self._readable, self.writable = os.pipe()
        self._stop_readable, self._stop_writable = os.pipe()
        os.set_blocking(self._readable, False)
        # C code may write while it holds the interpreter's lock, without which the thread cannot read. A full pipe must
        # therefore lose lines instead of blocking the writer.
        os.set_blocking(self.writable, False)
        self._thread = threading.Thread(target=self._run, name="stderr", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Log the lines that are still in the pipe, and log no more."""
        # Child processes may still have the pipe, so its end is no sign that this process writes no more.
        os.write(self._stop_writable, b"x")
        self._thread.join(_LAST_LINES_SECONDS)

    def close(self) -> None:
        """Close this process's descriptors, after `stop`. A thread that cannot write its last lines keeps them."""
        if not self._thread.is_alive():
            for descriptor in (self._readable, self._stop_readable, self._stop_writable):
                os.close(descriptor)

    def _run(self) -> None:
        if self._worker is not None:
            structlog.contextvars.bind_contextvars(worker=self._worker)
        lines = _Lines(logging.getLogger(LOGGER).log)
        with selectors.DefaultSelector() as selector:
            selector.register(self._readable, selectors.EVENT_READ)
            selector.register(self._stop_readable, selectors.EVENT_READ)
            ended = False
            while not ended:
                # Look for the stop before the last read, which then has every line that was written before the stop.
                ready = selector.select(_INTERVAL_SECONDS if lines.has_repeated else None)
                ended = any(key.fd == self._stop_readable for key, _ in ready)
                try:
                    while received := os.read(self._readable, _READ_BYTES):
                        lines.add(received)
                    ended = True
                except BlockingIOError:
                    lines.end_interval()
        lines.end()


class StderrCapture:
    """Logs what is written to file descriptor 2, from its creation until `stop`.

    Child processes inherit the descriptor, so this process logs their lines too, also those of a child that crashed.

    Attributes:
        original: the descriptor to which standard error led before; the log writes to it.
    """

    def __init__(self) -> None:
        self.original = os.dup(2)
        self._pipe = StderrPipe()
        os.dup2(self._pipe.writable, 2)
        os.close(self._pipe.writable)

    def stop(self) -> None:
        """Let file descriptor 2 lead where it led before, and log the lines that are still in the pipe."""
        sys.stderr.flush()
        os.dup2(self.original, 2)
        self._pipe.stop()


class _Lines:
    """Splits bytes into lines and logs each line; of those that gRPC's core repeats, the first and then their number.

    Args:
        write: called with the level and the text of each line.
    """

    def __init__(self, write: Callable[[int, str], None]) -> None:
        self._write = write
        self._unfinished = b""
        # The places in gRPC's core that have written in this interval, with the number of lines that were not logged.
        self._repeated: Counter[str] = Counter()
        self._interval_end = 0.0

    @property
    def has_repeated(self) -> bool:
        """True if `end_interval` will have something to log."""
        return any(self._repeated.values())

    def add(self, received: bytes) -> None:
        *lines, self._unfinished = (self._unfinished + received).split(b"\n")
        for line in lines:
            self._log(line)
        if len(self._unfinished) > _MAX_LINE_BYTES:
            self._end_line()

    def end_interval(self) -> None:
        """If the interval is over, log how often each place has written."""
        if time.monotonic() >= self._interval_end:
            self._log_repeated()

    def end(self) -> None:
        """Log what is left."""
        self._end_line()
        self._log_repeated()

    def _end_line(self) -> None:
        self._log(self._unfinished)
        self._unfinished = b""

    def _log_repeated(self) -> None:
        for place, count in self._repeated.items():
            if count:
                self._write(logging.WARNING, f"{place} wrote {count} more lines like this in {_INTERVAL_SECONDS:.0f} s")
        self._repeated.clear()

    def _log(self, line: bytes) -> None:
        text = line[:_MAX_LINE_BYTES].decode(errors="backslashreplace").rstrip()
        if not text:
            return
        found = _ABSL.match(text)
        if found and (place := found["place"]):
            if place in self._repeated:
                self._repeated[place] += 1
                return
            if not self._repeated:
                self._interval_end = time.monotonic() + _INTERVAL_SECONDS
            self._repeated[place] = 0
        self._write(_LEVELS[found["level"]] if found else logging.WARNING, text)
