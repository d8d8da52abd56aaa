"""Writes log lines on a thread of its own, so that a log that nobody reads delays no call."""

import threading
from collections import deque
from collections.abc import Mapping

import structlog

_log = structlog.get_logger("poolservice_server.call_log")

# Lines that wait for the thread. Above this number, they are left out.
_MAX_WAITING = 10_000


class LineWriter:
    """A thread that writes lines in order. If too many wait, it leaves out further ones and logs their number."""

    def __init__(self) -> None:
        self._left_out = 0
        self._lines: deque[tuple[int, str, Mapping[str, object]]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="call-log", daemon=True)
        self._thread.start()

    def write(self, level: int, event: str, values: Mapping[str, object]) -> None:
        """Write a line soon."""
        with self._changed:
            if len(self._lines) >= _MAX_WAITING:
                self._left_out += 1
                return
            self._lines.append((level, event, values))
            self._changed.notify()

    def close(self, seconds: float) -> None:
        """Wait until the lines are written, at most so many seconds, and let the thread end."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._lines:
                    if self._closed:
                        return
                    self._changed.wait()
                level, event, values = self._lines.popleft()
                left_out, self._left_out = self._left_out, 0
            if left_out:
                _log.warning("left out lines about calls, because the log takes no more", lines=left_out)
            _log.log(level, event, **values)
