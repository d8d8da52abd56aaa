"""One serving process: assembles the packages, handles signals and drains accepted requests when it stops."""

import asyncio
import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import NamedTuple

import structlog

from poolservice_server import allocator, log
from poolservice_server.assembled_service import AssembledService, open_backend
from poolservice_server.backbones.backbone import Backbones
from poolservice_server.backbones.loading import load_backbones
from poolservice_server.backend import Backend, torch_version
from poolservice_server.cpu_count import usable_cpus
from poolservice_server.file_watch import FileWatch
from poolservice_server.grpc_adapter.merging_event_loop import EventLoop
from poolservice_server.grpc_adapter.server import GrpcServer
from poolservice_server.metrics import server as metrics_server
from poolservice_server.metrics.registry import ProcessMetrics
from poolservice_server.metrics.scrape_channel import answer_scrapes
from poolservice_server.observers import Observers
from poolservice_server.pool_heads.head import PoolHeads
from poolservice_server.pool_heads.loading import load_pool_heads
from poolservice_server.readiness import Readiness
from poolservice_server.serving import Serving
from poolservice_server.settings import Settings
from poolservice_server.signal_thread import SignalThread
from poolservice_server.signals import SignalSocket

_log = structlog.get_logger(__name__)

# The longest time for which a stopped process waits for threads that are about to end.
_LAST_THREADS_SECONDS = 0.1

# The longest time for which the last spans delay the end of a process whose gRPC server ended by itself.
_LAST_RECORDS_SECONDS = 1.0


class Worker(NamedTuple):
    """The position of this process among those that share an address.

    Attributes:
        number: its number, counted from 0.
        on_serving: called once the process serves.
        supervisor: a file descriptor that becomes readable when the supervisor ends; -1 without a supervisor.
        scrapes: the file descriptor on which the supervisor asks for metrics; -1 without a supervisor.
    """

    number: int
    on_serving: Callable[[Serving], None]
    supervisor: int
    scrapes: int = -1


def run(settings: Settings, worker: Worker | None = None) -> None:
    """Serve in this process until SIGTERM or SIGINT. The process ends here if threads still compute something then.

    Args:
        settings: the server's settings.
        worker: the position of this process; None if it has no supervisor.

    Raises:
        SettingsError: the device does not exist, the server cannot listen on the address, or a file cannot be used.
    """
    if worker is None:
        worker = Worker(0, partial(Serving.announce, workers=1, output=settings.log_format), -1)
    allocator.keep_large_messages()
    backend = open_backend(settings)
    backbones = load_backbones(settings, backend, cores=_cores(settings))
    pool_heads = load_pool_heads(settings)

    async def serve() -> None:
        await ServingProcess(settings, backend, backbones, pool_heads, worker).serve()

    with asyncio.Runner(loop_factory=EventLoop) as runner:
        try:
            runner.run(serve())
        except ServerEnded as error:
            _log.error("the gRPC server ended by itself, and this process ends too", exc_info=error.__cause__)
            _end_process(1)
    if _threads_remain():
        _end_process(0)


def _threads_remain() -> bool:
    """Return True if threads still compute something that nobody waits for, which would keep the process alive."""
    deadline = time.monotonic() + _LAST_THREADS_SECONDS
    others = [one for one in threading.enumerate() if not one.daemon and one is not threading.main_thread()]
    for thread in others:
        thread.join(max(0.0, deadline - time.monotonic()))
    return any(thread.is_alive() for thread in others)


def _end_process(status: int) -> None:
    log.flush()
    os._exit(status)


def _cores(settings: Settings) -> int:
    """Return the number of cores of this process, its share if there are several workers."""
    return max(1, usable_cpus() // settings.workers)


class ServerEnded(Exception):
    """gRPC's server ended by itself. Its leftover state can crash the process, so a new process must serve."""


class ServingProcess:
    """The parts of one serving process, and their life from start to stop. Create it in the running event loop."""

    def __init__(
        self, settings: Settings, backend: Backend, backbones: Backbones, pool_heads: PoolHeads, worker: Worker
    ) -> None:
        self._settings = settings
        self._worker = worker
        self._backend = backend
        self._metrics = ProcessMetrics(lambda: self._server.calls_in_progress)
        self._observers = Observers(
            settings, worker.number, [self._metrics.requests.observe], [self._metrics.calls.observe]
        )
        self._assembled = AssembledService(
            settings,
            backend,
            backbones,
            pool_heads,
            worker=worker.number,
            cores=_cores(settings),
            observe=self._observers.observe_request,
        )
        self._batcher, service = self._assembled.batcher, self._assembled.service
        self._readiness = Readiness(backend)
        self._watch = FileWatch()
        self._server = GrpcServer(
            settings,
            service,
            self._observers.observe_call,
            self._watch,
            self._readiness,
            backbones,
            shared_port=self._is_supervised,
            always_sends_id=self._observers.need_ids,
        )
        self._metrics.add(self._batcher, backend, service, self._server, self._readiness, backbones, self._watch)
        self._stop = asyncio.Event()

    @property
    def _is_supervised(self) -> bool:
        return self._worker.supervisor >= 0

    async def serve(self) -> None:
        """Serve until SIGTERM or SIGINT, then finish the accepted requests within the grace period.

        A second signal ends the process immediately.

        Raises:
            SettingsError: the server cannot listen on the address.
            ServerEnded: gRPC's server ended by itself.
        """
        self._handle_signals()
        with self._served_metrics():
            await self._readiness.start()
            address = await self._server.start()
            memory_return = allocator.MemoryReturn(self._batcher.used_bytes)
            memory_return.start()
            self._watch.start()
            # The objects that exist now live as long as the process. Freezing them keeps the garbage collector from
            # traversing torch's 200,000 objects again and again.
            gc.collect()
            gc.freeze()
            device = self._backend.devices()[0]
            self._worker.on_serving(Serving(f"{device.name} ({device.description}, torch {torch_version()})", address))
            ended = asyncio.ensure_future(self._server.wait_for_termination())
            stop = asyncio.ensure_future(self._stop.wait())
            await asyncio.wait((ended, stop), return_when=asyncio.FIRST_COMPLETED)
            if not stop.done():
                # The process ends without Python's own clean-up, which would lose the last lines and spans.
                await self._observers.close(_LAST_RECORDS_SECONDS)
                raise ServerEnded from ended.exception()
            await self._drain()
            memory_return.stop()
            await asyncio.wait((ended,))
        self._assembled.close()

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        numbers = [signal.SIGTERM, signal.SIGHUP]
        if not self._is_supervised:
            # Ctrl-C reaches a worker twice: as SIGINT, which it ignores, and from the supervisor as SIGTERM. If both
            # counted, the second signal would end the process without draining.
            numbers.append(signal.SIGINT)

        def stop() -> None:
            # If the loop is closed, the process is about to end.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._stop.set)

        SignalThread(
            SignalSocket(*numbers),
            self._worker.supervisor,
            self._settings.grace_period,
            on_stop=stop,
            on_reload=self._watch.reload,
        )

    @contextmanager
    def _served_metrics(self) -> Iterator[None]:
        """Serve the metrics, if the settings say so, until the end of the block; those of a worker, to its supervisor.

        Raises:
            SettingsError: the address or the token file cannot be used.
        """
        if self._worker.scrapes >= 0:
            answer_scrapes(self._worker.scrapes, self._metrics.collect)
        if self._is_supervised:
            yield
            return
        with metrics_server.serve_configured(self._settings, self._watch, self._metrics.collect_unsupervised):
            yield

    async def _drain(self) -> None:
        deadline = time.monotonic() + self._settings.grace_period
        self._stop.clear()
        await self._server.report_not_serving()
        drained = asyncio.ensure_future(self._finish_requests(self._settings.grace_period))
        second_signal = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait((drained, second_signal), return_when=asyncio.FIRST_COMPLETED)
        if not drained.done():
            await self._server.stop(None)
        second_signal.cancel()
        await drained
        await self._observers.close(max(0.0, deadline - time.monotonic()))
        _log.info("stopped")

    async def _finish_requests(self, grace_period: float) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace_period
        try:
            async with asyncio.timeout_at(deadline):
                await self._batcher.drain()
        except TimeoutError:
            _log.warning("the grace period has ended with unfinished requests")
            self._batcher.abandon()
        await self._server.stop(max(0.0, deadline - loop.time()))
