"""Serving processes on one port: starts them, starts again one that ends, stops them all.

Python computes on one core a process; on CPUs several share the port by SO_REUSEPORT, and the kernel deals the
connections out. The supervisor itself never imports torch or opens the port for callers.
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

# A worker that dies sooner than this after it started is restarted after a pause, doubled each time.
_HEALTHY_SECONDS = 10.0
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0

# What a worker has beyond the grace period before it is killed.
_STOP_MARGIN_SECONDS = 10.0

_CONTEXT = get_context("spawn")


def run(settings: Settings) -> None:
    """Serve with `settings.workers` processes until SIGTERM or SIGINT.

    Raises:
        SettingsError: a worker cannot start with these settings.
    """
    log.configure(settings.log_level, settings.log_format)
    unix = settings.address.startswith("unix:")
    port = nullcontext(settings.address) if unix else listen_check.listening(settings.address, shared=True)
    with port as address, _signals() as signals:
        _Supervisor(settings.model_copy(update={"address": address}), signals).run()


class _Worker:
    """A worker's process, and the pipe on which it tells of itself."""

    def __init__(self, settings: Settings, number: int) -> None:
        self.number = number
        self.serves = False
        self.started = time.monotonic()
        self.pipe, theirs = _CONTEXT.Pipe()
        self.process = _CONTEXT.Process(target=_work, args=(settings, number, theirs), name=f"worker-{number}")
        self.process.start()
        theirs.close()

    def reap(self) -> int | None:
        """Take the ended process away; how it ended."""
        self.process.join()
        status = self.process.exitcode
        self.process.close()
        self.pipe.close()
        return status


class _Restart(NamedTuple):
    """When a worker that died is started again, and how long it pauses should it die young once more."""

    at: float
    pause: float


class _Supervisor:
    def __init__(self, settings: Settings, signals: socket.socket) -> None:
        self._settings = settings
        self._signals = signals
        self._workers: dict[int, _Worker] = {}
        self._restarts = {number: _Restart(0.0, _FIRST_PAUSE_SECONDS) for number in range(settings.workers)}
        self._announced = False

    def run(self) -> None:
        try:
            while not self._wait():
                pass
            _log.info("stopping the workers", grace_period=self._settings.grace_period)
        finally:
            self._stop()

    def _wait(self) -> bool:
        """Start who is due, wait until something happens and see to it; True for a signal to stop."""
        now = time.monotonic()
        for number, restart in self._restarts.items():
            if number not in self._workers and restart.at <= now:
                self._workers[number] = _Worker(self._settings, number)
        pauses = [restart.at - now for number, restart in self._restarts.items() if number not in self._workers]
        with selectors.DefaultSelector() as selector:
            selector.register(self._signals, selectors.EVENT_READ)
            for worker in self._workers.values():
                selector.register(worker.process.sentinel, selectors.EVENT_READ, worker)
                if not worker.serves:
                    selector.register(worker.pipe, selectors.EVENT_READ, worker)
            ready = [key for key, _ in selector.select(max(0.0, min(pauses)) if pauses else None)]
        # What a worker had to say comes before its end.
        for key in sorted(ready, key=lambda one: not isinstance(one.fileobj, Connection)):
            if key.data is None:
                return True
            if isinstance(key.fileobj, Connection):
                self._hear(key.data)
            else:
                self._bury(key.data)
        return False

    def _hear(self, worker: _Worker) -> None:
        try:
            kind, text = worker.pipe.recv()
        except EOFError:
            # It died without a word; the end of its process tells the rest.
            return
        if kind == "wrong settings":
            raise SettingsError(text)
        worker.serves = True
        _log.info("a worker serves", worker=worker.number)
        if not self._announced and sum(one.serves for one in self._workers.values()) == self._settings.workers:
            self._announced = True
            head, at, address = text.rpartition(" is serving at ")
            # Scripts wait for this line and read the address that it ends with.
            workers = f" with {self._settings.workers} workers" if self._settings.workers > 1 else ""
            print(f"{head}{workers}{at}{address}", flush=True)  # noqa: T201 - what a script reads

    def _bury(self, worker: _Worker) -> None:
        del self._workers[worker.number]
        status = worker.reap()
        now = time.monotonic()
        pause = self._restarts[worker.number].pause
        if now - worker.started > _HEALTHY_SECONDS:
            restart = _Restart(now, _FIRST_PAUSE_SECONDS)
        else:
            restart = _Restart(now + pause, min(2 * pause, _LONGEST_PAUSE_SECONDS))
        self._restarts[worker.number] = restart
        _log.error("a worker ended", worker=worker.number, exit_status=status, again_in_seconds=restart.at - now)

    def _stop(self) -> None:
        for worker in self._workers.values():
            worker.process.terminate()
        deadline = time.monotonic() + self._settings.grace_period + _STOP_MARGIN_SECONDS
        for worker in self._workers.values():
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.is_alive():
                _log.error("a worker did not stop, killing it", worker=worker.number)
                worker.process.kill()
            worker.reap()


def _work(settings: Settings, number: int, pipe: Connection) -> None:
    """A worker's whole life."""
    # Ctrl-C reaches the whole process group; the supervisor alone decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from poolservice_server.process import ServerEnded, Worker
    from poolservice_server.process import run as serve

    try:
        serve(settings, Worker(number, lambda banner: pipe.send(("serving", banner)), pipe.fileno()))
    except SettingsError as error:
        pipe.send(("wrong settings", str(error)))
    except ServerEnded as error:
        _log.error("the gRPC server ended by itself", worker=number, exc_info=error.__cause__)
        sys.exit(1)


@contextmanager
def _signals() -> Iterator[socket.socket]:
    """A socket that becomes readable when SIGTERM or SIGINT comes."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        previous_fd = signal.set_wakeup_fd(theirs.fileno())
        previous = {number: signal.signal(number, _noticed) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield ours
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            with suppress(ValueError):
                signal.set_wakeup_fd(previous_fd)


def _noticed(_number: int, _frame: object) -> None:
    """The wake-up socket has told already."""
