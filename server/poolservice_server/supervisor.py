"""The supervisor: starts the worker processes that share a port, replaces the ones that end, and stops all of them.

A Python process computes on one core at a time. On CPUs, several workers therefore share the port with SO_REUSEPORT,
and the kernel distributes the connections. The supervisor itself never imports torch and never accepts a connection.

If a worker crashes, for example in the C code of a decoder, the kernel closes its connections. Its callers get
UNAVAILABLE and retry on another worker, and the supervisor replaces it.
"""

import selectors
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from multiprocessing.connection import Connection
from typing import NamedTuple

import structlog

from poolservice_server import listen_check
from poolservice_server.file_watch import FileWatch
from poolservice_server.metrics import server as metrics_server
from poolservice_server.metrics.workers import WorkerMetrics
from poolservice_server.serving import Serving
from poolservice_server.settings import Settings, SettingsError
from poolservice_server.signals import SignalSocket
from poolservice_server.worker_process import WorkerProcess

_log = structlog.get_logger(__name__)

# A worker that ends before it has served is restarted after a pause, which doubles each time. While no worker serves,
# the pause is short: the callers are waiting.
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0
_LONGEST_PAUSE_SECONDS_WITHOUT_SERVICE = 1.0

# The time beyond the grace period after which a worker is killed. A worker ends itself earlier, if it still can.
_KILL_MARGIN_SECONDS = 0.75


def run(settings: Settings) -> None:
    """Serve with `settings.workers` processes until SIGTERM or SIGINT.

    Raises:
        SettingsError: a worker cannot start with these settings, or the metrics cannot be served.
    """
    signals = SignalSocket(signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    is_unix = settings.address.startswith("unix:")
    # Reserving the port keeps it for the workers, which may all be restarting at the same time.
    port = nullcontext(settings.address) if is_unix else listen_check.reserve(settings.address, shared=True)
    watch = FileWatch()
    with port as address, _served_metrics(settings, watch) as metrics:
        _Supervisor(settings.model_copy(update={"address": address}), signals, watch, metrics).run()


@contextmanager
def _served_metrics(settings: Settings, watch: FileWatch) -> Iterator[WorkerMetrics | None]:
    """Serve the metrics of all workers, if the settings name an address, until the end of the block."""
    if not settings.metrics_address:
        yield None
        return
    metrics = WorkerMetrics(settings.workers, watch)
    with metrics_server.serve_configured(settings, watch, metrics.collect, lambda: metrics.loop):
        if watch.names:
            watch.start()
        yield metrics


class _Restart(NamedTuple):
    """The time `at` which a worker starts next, and the pause before its next restart if it ends before it serves."""

    at: float
    pause: float


class _Supervisor:
    def __init__(
        self, settings: Settings, signals: SignalSocket, watch: FileWatch, metrics: WorkerMetrics | None
    ) -> None:
        self._settings = settings
        self._signals = signals
        self._watch = watch
        self._metrics = metrics
        self._workers: dict[int, WorkerProcess] = {}
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
                self._workers[number] = WorkerProcess(self._settings, number)
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
                if self._handle_signals():
                    return True
            elif isinstance(key.fileobj, Connection):
                self._receive(key.data)
            else:
                self._schedule_restart(key.data)
        return False

    def _handle_signals(self) -> bool:
        """Pass a signal to read files again on to the workers; return True for a signal to stop."""
        arrived = self._signals.read()
        if signal.SIGHUP in arrived:
            self._watch.reload()
            for worker in self._workers.values():
                worker.send_signal(signal.SIGHUP)
        return signal.SIGTERM in arrived or signal.SIGINT in arrived

    def _receive(self, worker: WorkerProcess) -> None:
        message = worker.receive()
        if message is None:
            # The worker ended without a message; the end of its process is an event of its own.
            return
        if isinstance(message, SettingsError):
            if not self._is_ready:
                raise message
            # The settings were right before, so a file has changed. Other workers may still serve with the old one.
            _log.error("a worker cannot start with the current settings", worker=worker.number, reason=str(message))
            return
        if self._metrics is not None:
            self._metrics.add(worker.number, worker.pid, worker.scrapes.dup())
        _log.info("a worker is serving", worker=worker.number, pid=worker.pid)
        self._announce(message)

    def _announce(self, serving: Serving) -> None:
        if not self._is_ready and sum(one.is_serving for one in self._workers.values()) == self._settings.workers:
            self._is_ready = True
            serving.announce(self._settings.workers, self._settings.log_format)

    def _schedule_restart(self, worker: WorkerProcess) -> None:
        del self._workers[worker.number]
        if self._metrics is not None:
            self._metrics.end(worker.number)
        pid, status = worker.pid, worker.reap()
        now = time.monotonic()
        pause = self._restarts[worker.number].pause
        if worker.is_serving:
            restart = _Restart(now, _FIRST_PAUSE_SECONDS)
        else:
            serves = any(one.is_serving for one in self._workers.values())
            longest = _LONGEST_PAUSE_SECONDS if serves else _LONGEST_PAUSE_SECONDS_WITHOUT_SERVICE
            restart = _Restart(now + min(pause, longest), min(2 * pause, _LONGEST_PAUSE_SECONDS))
        self._restarts[worker.number] = restart
        _log.error(
            "a worker has ended",
            worker=worker.number,
            pid=pid,
            exit_status=status,
            restart_in_seconds=restart.at - now,
        )

    def _stop(self) -> None:
        """End the workers within the grace period, or immediately after a further signal, and kill the rest."""
        self._terminate()
        deadline = time.monotonic() + self._settings.grace_period + _KILL_MARGIN_SECONDS
        with selectors.DefaultSelector() as selector:
            selector.register(self._signals, selectors.EVENT_READ)
            for worker in self._workers.values():
                selector.register(worker.process.sentinel, selectors.EVENT_READ, worker)
            alive = len(self._workers)
            while alive and (remaining := deadline - time.monotonic()) > 0:
                for key, _ in selector.select(remaining):
                    if key.data is None:
                        if any(number is not signal.SIGHUP for number in self._signals.read()):
                            self._terminate()
                            deadline = min(deadline, time.monotonic() + _KILL_MARGIN_SECONDS)
                    else:
                        selector.unregister(key.fileobj)
                        alive -= 1
        for worker in self._workers.values():
            # A process may have closed its sentinel and not have ended yet.
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.is_alive():
                _log.error("killing a worker that did not stop in time", worker=worker.number, pid=worker.pid)
                worker.process.kill()
            worker.reap()

    def _terminate(self) -> None:
        for worker in self._workers.values():
            worker.process.terminate()
