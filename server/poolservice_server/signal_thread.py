"""The thread that handles signals, and that ends the process if it does not stop in time."""

import os
import selectors
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import structlog

from poolservice_server import log
from poolservice_server.signals import SignalSocket

_log = structlog.get_logger(__name__)

#: The time beyond the grace period, or after a second signal, after which a process ends whatever its threads do.
STOP_MARGIN_SECONDS = 0.5

# The longest time for which an ending process waits until its last log lines are written.
_LAST_LINES_SECONDS = 0.2


class SignalThread:
    """Waits for signals on a thread, because the event loop or a batch may be busy for a long time.

    After the first signal to stop, the process has the grace period to end by itself; after a second one, it has no
    time. Half a second later this thread ends it.

    Args:
        signals: receives SIGTERM and SIGHUP and, without a supervisor, SIGINT.
        supervisor: a file descriptor that becomes readable when the supervisor ends; -1 without a supervisor.
        grace_period: seconds for the requests in progress.
        on_stop: called on this thread at each signal to stop.
        on_reload: called on this thread at SIGHUP.
    """

    def __init__(
        self,
        signals: SignalSocket,
        supervisor: int,
        grace_period: float,
        *,
        on_stop: Callable[[], None],
        on_reload: Callable[[], None],
    ) -> None:
        self._signals = signals
        self._supervisor = supervisor
        self._grace_period = grace_period
        self._on_stop = on_stop
        self._on_reload = on_reload
        self._deadline: float | None = None
        # A daemon: it must not keep a process alive that ends by itself.
        threading.Thread(target=self._run, name="signals", daemon=True).start()

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._signals, selectors.EVENT_READ)
            if self._supervisor >= 0:
                selector.register(self._supervisor, selectors.EVENT_READ)
            while (remaining := self._remaining()) is None or remaining > 0:
                for key, _ in selector.select(remaining):
                    if key.fileobj is self._signals:
                        self._handle(self._signals.read())
                    else:
                        selector.unregister(self._supervisor)
                        _start_logging(_log.error, "the supervisor has ended")
                        self._stop()
        _end_process()

    def _remaining(self) -> float | None:
        return None if self._deadline is None else self._deadline - time.monotonic()

    def _handle(self, arrived: list[signal.Signals]) -> None:
        for number in arrived:
            if number is signal.SIGHUP:
                self._on_reload()
            elif number in (signal.SIGTERM, signal.SIGINT):
                self._stop()

    def _stop(self) -> None:
        now = time.monotonic()
        if self._deadline is None:
            self._deadline = now + self._grace_period + STOP_MARGIN_SECONDS
            _start_logging(_log.info, "stopping", grace_period=self._grace_period)
        else:
            _start_logging(_log.warning, "stopping immediately after a second signal")
            self._deadline = min(self._deadline, now + STOP_MARGIN_SECONDS)
        self._on_stop()


def _start_logging(write: Callable[..., None], event: str, **values: Any) -> threading.Thread:
    """Log an event on a thread of its own: a log that is blocked, by a pipe that nobody reads, must delay nothing."""
    thread = threading.Thread(target=write, args=(event,), kwargs=values, daemon=True)
    thread.start()
    return thread


def _end_process() -> None:
    """End the process now, with status 0, because it was asked to stop."""
    event = "ending although work is unfinished: the time to stop is over"
    _start_logging(_write_last_line, event).join(_LAST_LINES_SECONDS)
    os._exit(0)


def _write_last_line(event: str) -> None:
    _log.warning(event)
    log.flush()
