"""The supervisor: starts the worker processes that share a port, restarts the ones that end, and stops all of them.

A Python process computes on one core at a time. On CPUs, several workers therefore share the port with SO_REUSEPORT,
and the kernel distributes the connections. The supervisor itself never imports torch and never accepts a connection.
"""

import selectors
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import NamedTuple

import structlog

from poolservice_server import listen_check, log
from poolservice_server.settings import Settings, SettingsError

_log = structlog.get_logger(__name__)

# A worker that ends within this time after its start is restarted after a pause, which doubles each time.
_HEALTHY_SECONDS = 10.0
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0

# The time beyond the grace period after which a worker is killed.
_STOP_MARGIN_SECONDS = 10.0

_CONTEXT = get_context("spawn")

# The messages from a worker: a tag and a text.
_SERVING, _SETTINGS_ERROR = "serving", "settings error"


def run(settings: Settings) -> None:
    """Serve with `settings.workers` processes until SIGTERM or SIGINT.

    Raises:
        SettingsError: a worker cannot start with these settings.
    """
    is_unix = settings.address.startswith("unix:")
    # Reserving the port keeps it for the workers, which may all be restarting at the same time.
    port = nullcontext(settings.address) if is_unix else listen_check.reserve(settings.address, shared=True)
    with port as address, _signals() as signals:
        _Supervisor(settings.model_copy(update={"address": address}), signals).run()


class _WorkerProcess:
    """A worker process, and the pipe on which it reports."""

    def __init__(self, settings: Settings, number: int) -> None:
        self.number = number
        self.is_serving = False
        self.started = time.monotonic()
        self.pipe, worker_end = _CONTEXT.Pipe()
        self.process = _CONTEXT.Process(target=_work, args=(settings, number, worker_end), name=f"worker-{number}")
        self.process.start()
        worker_end.close()

    def reap(self) -> int | None:
        """Wait for the process to end, release its resources and return its exit status."""
        self.process.join()
        status = self.process.exitcode
        self.process.close()
        self.pipe.close()
        return status


class _Restart(NamedTuple):
    """The time `at` which a worker starts next, and the pause before its next restart if it ends early again."""

    at: float
    pause: float


class _Supervisor:
    def __init__(self, settings: Settings, signals: socket.socket) -> None:
        self._settings = settings
        self._signals = signals
        self._workers: dict[int, _WorkerProcess] = {}
        self._restarts = {number: _Restart(0.0, _FIRST_PAUSE_SECONDS) for number in range(settings.workers)}
        self._is_ready = False

    def run(self) -> None:
        try:
            while not self._handle_events():
                pass
            _log.info("stopping the workers", grace_period=self._settings.grace_period)
        finally:
            self._stop()

    def _handle_events(self) -> bool:
        """Start the workers that are due, wait for an event and handle it; return True for a signal to stop."""
        now = time.monotonic()
        for number, restart in self._restarts.items():
            if number not in self._workers and restart.at <= now:
                self._workers[number] = _WorkerProcess(self._settings, number)
        pauses = [restart.at - now for number, restart in self._restarts.items() if number not in self._workers]
        with selectors.DefaultSelector() as selector:
            selector.register(self._signals, selectors.EVENT_READ)
            for worker in self._workers.values():
                selector.register(worker.process.sentinel, selectors.EVENT_READ, worker)
                if not worker.is_serving:
                    selector.register(worker.pipe, selectors.EVENT_READ, worker)
            ready = [key for key, _ in selector.select(max(0.0, min(pauses)) if pauses else None)]
        # Read a worker's message before its exit status.
        for key in sorted(ready, key=lambda one: not isinstance(one.fileobj, Connection)):
            if key.data is None:
                return True
            if isinstance(key.fileobj, Connection):
                self._receive(key.data)
            else:
                self._schedule_restart(key.data)
        return False

    def _receive(self, worker: _WorkerProcess) -> None:
        try:
            tag, text = worker.pipe.recv()
        except EOFError:
            # The worker ended without a message; the end of its process is an event of its own.
            return
        if tag == _SETTINGS_ERROR:
            raise SettingsError(text)
        worker.is_serving = True
        _log.info("a worker is serving", worker=worker.number)
        if not self._is_ready and sum(one.is_serving for one in self._workers.values()) == self._settings.workers:
            self._is_ready = True
            device, separator, address = text.rpartition(" is serving at ")
            workers = f" with {self._settings.workers} workers" if self._settings.workers > 1 else ""
            # Scripts wait for this line and read the address at its end.
            print(f"{device}{workers}{separator}{address}", flush=True)  # noqa: T201 - read by scripts

    def _schedule_restart(self, worker: _WorkerProcess) -> None:
        del self._workers[worker.number]
        status = worker.reap()
        now = time.monotonic()
        pause = self._restarts[worker.number].pause
        if now - worker.started > _HEALTHY_SECONDS:
            restart = _Restart(now, _FIRST_PAUSE_SECONDS)
        else:
            restart = _Restart(now + pause, min(2 * pause, _LONGEST_PAUSE_SECONDS))
        self._restarts[worker.number] = restart
        _log.error("a worker has ended", worker=worker.number, exit_status=status, restart_in_seconds=restart.at - now)

    def _stop(self) -> None:
        for worker in self._workers.values():
            worker.process.terminate()
        deadline = time.monotonic() + self._settings.grace_period + _STOP_MARGIN_SECONDS
        for worker in self._workers.values():
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.is_alive():
                _log.error("killing a worker that did not stop in time", worker=worker.number)
                worker.process.kill()
            worker.reap()


def _work(settings: Settings, number: int, pipe: Connection) -> None:
    """Run a worker, in its own process."""
    # Ctrl-C reaches the whole process group; only the supervisor handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    log.configure(settings.log_level, settings.log_format)
    from poolservice_server.process import ServerEnded, Worker
    from poolservice_server.process import run as serve

    try:
        serve(settings, Worker(number, lambda ready_line: pipe.send((_SERVING, ready_line)), pipe.fileno()))
    except SettingsError as error:
        pipe.send((_SETTINGS_ERROR, str(error)))
    except ServerEnded as error:
        _log.error("the gRPC server ended by itself", worker=number, exc_info=error.__cause__)
        sys.exit(1)


@contextmanager
def _signals() -> Iterator[socket.socket]:
    """Yield a socket that becomes readable on SIGTERM or SIGINT."""
    readable, wakeup = socket.socketpair()
    with readable, wakeup:
        wakeup.setblocking(False)
        previous_fd = signal.set_wakeup_fd(wakeup.fileno())
        previous = {number: signal.signal(number, _ignore) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield readable
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            with suppress(ValueError):
                signal.set_wakeup_fd(previous_fd)


def _ignore(_number: int, _frame: object) -> None:
    """Do nothing: the wake-up socket has reported the signal."""
