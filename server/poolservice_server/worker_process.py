"""A worker process of the supervisor: its start, the pipe on which it reports, and its end."""

import os
import signal
import socket
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection

import structlog

from poolservice_server import log
from poolservice_server.permanent_objects import permanent_objects
from poolservice_server.serving import Serving
from poolservice_server.settings import Settings, SettingsError
from poolservice_server.stderr_capture import StderrPipe

_log = structlog.get_logger(__name__)

# A spawned process imports everything anew. A forked one would share the supervisor's threads' locks.
_CONTEXT = get_context("spawn")


class WorkerProcess:
    """A worker process, as its supervisor sees it.

    Attributes:
        number: the worker's number.
        is_serving: True once the worker has served.
        pipe: readable when the worker reports something.
        scrapes: the socket on which the worker can be asked for its metrics once it serves.
        process: the process.
    """

    def __init__(self, settings: Settings, number: int) -> None:
        self.number = number
        self.is_serving = False
        self.pipe, worker_end = _CONTEXT.Pipe()
        self.scrapes, worker_scrapes = socket.socketpair()
        self._stderr = StderrPipe(number)
        # Connections, because that is how multiprocessing passes file descriptors on.
        with (
            Connection(os.dup(log.descriptor()), readable=False) as events,
            Connection(self._stderr.writable, readable=False) as stderr,
            Connection(worker_scrapes.detach()) as scrapes,
        ):
            self.process = _CONTEXT.Process(
                target=_work, args=(settings, number, worker_end, events, stderr, scrapes), name=f"worker-{number}"
            )
            # Until a worker handles SIGHUP, it would end the worker. A new process inherits the blocked signals.
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
            try:
                self.process.start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        worker_end.close()

    @property
    def pid(self) -> int | None:
        """The process's id, until it has been reaped."""
        return self.process.pid

    def receive(self) -> Serving | SettingsError | None:
        """Return what the worker reports: that it serves, or why it cannot start; None if it ended without a report."""
        try:
            message: Serving | SettingsError = self.pipe.recv()
        except EOFError:
            return None
        self.is_serving = isinstance(message, Serving)
        return message

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the worker, which has not been reaped."""
        if self.pid is not None:
            os.kill(self.pid, number)

    def reap(self) -> int | None:
        """Wait for the process to end, log its last lines, release its resources and return its exit status."""
        self.process.join()
        self._stderr.stop()
        self._stderr.close()
        status = self.process.exitcode
        self.process.close()
        self.pipe.close()
        self.scrapes.close()
        return status


def _work(
    settings: Settings, number: int, pipe: Connection, events: Connection, stderr: Connection, scrapes: Connection
) -> None:
    """Run a worker, in its own process."""
    os.dup2(stderr.fileno(), 2)
    # Ctrl-C reaches the whole process group; only the supervisor handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGHUP])
    log.configure(settings.log_level, settings.log_format, log.WorkerLog(number, events.fileno()))
    # Imported here because it imports torch, which takes seconds.
    with permanent_objects():
        from poolservice_server.process import Worker
        from poolservice_server.process import run as serve

    def announce(serving: Serving) -> None:
        # If the supervisor has ended, the signal thread notices it.
        with suppress(BrokenPipeError):
            pipe.send(serving)

    # The supervisor sends nothing: a readable pipe has ended.
    if pipe.poll():
        _log.error("the supervisor has ended")
        return
    try:
        serve(settings, Worker(number, announce, pipe.fileno(), scrapes.fileno()))
    except SettingsError as error:
        try:
            pipe.send(error)
        except BrokenPipeError:
            _log.error("cannot start, and the supervisor has ended", reason=str(error))
