"""One serving process: assembles the packages, handles signals and drains accepted requests when it stops."""

import asyncio
import gc
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import structlog
from prometheus_client import CollectorRegistry

from poolservice import __version__
from poolservice_server import allocator, images, metrics, server_info
from poolservice_server.backend import Backend, choose_backend, torch_version
from poolservice_server.backend.device import NoDevice
from poolservice_server.batcher import Batcher, Quotas
from poolservice_server.core.service import PoolService
from poolservice_server.cpu_count import usable_cpus
from poolservice_server.grpc_adapter.merging_event_loop import EventLoop
from poolservice_server.grpc_adapter.server import GrpcServer
from poolservice_server.images.decode_processes import DecodeProcesses
from poolservice_server.settings import Settings, SettingsError
from poolservice_server.stage_cost import calibrate

_log = structlog.get_logger(__name__)

# Long enough to make the fixed cost of a batch negligible, also on a GPU.
_MAX_BATCH_SECONDS = 0.02

_NO_LIMIT = float("inf")


class Worker(NamedTuple):
    """The position of this process among those that share an address.

    Attributes:
        number: its number, counted from 0.
        on_serving: called with the ready line once the process serves.
        supervisor: a file descriptor that becomes readable when the supervisor ends; -1 without a supervisor.
    """

    number: int
    on_serving: Callable[[str], None]
    supervisor: int


def _print_ready_line(ready_line: str) -> None:
    # Scripts wait for this line and read the address at its end.
    print(ready_line, flush=True)  # noqa: T201 - read by scripts


SINGLE = Worker(0, _print_ready_line, -1)


def run(settings: Settings, worker: Worker = SINGLE) -> None:
    """Serve in this process until SIGTERM or SIGINT.

    Raises:
        SettingsError: the device does not exist, the server cannot listen on the address, or a file cannot be used.
        ServerEnded: gRPC's server ended by itself.
    """
    allocator.keep_large_messages()
    try:
        backend = choose_backend(
            settings.device, require_gpu=settings.require_gpu, max_batch_bytes=settings.max_batch_bytes
        )
    except NoDevice as error:
        raise SettingsError(f"{error} (--device, --require-gpu)") from None

    async def serve() -> None:
        await ServingProcess(settings, backend, worker).serve()

    with asyncio.Runner(loop_factory=EventLoop) as runner:
        runner.run(serve())


class ServerEnded(Exception):
    """gRPC's server ended by itself. Its leftover state can crash the process, so a new process must serve."""

    def __init__(self) -> None:
        super().__init__("the gRPC server ended by itself, and this process ends too; start it again")


class ServingProcess:
    """The parts of one serving process, and their life from start to stop. Create it in the running event loop."""

    def __init__(self, settings: Settings, backend: Backend, worker: Worker) -> None:
        cpus = max(1, usable_cpus() // settings.workers)
        self._settings = settings
        self._worker = worker
        self._backend = backend
        decode_threads = settings.decode_threads or cpus
        self._batcher = Batcher(
            backend.run,
            max_batch_size=settings.max_batch_size,
            max_batch_bytes=settings.max_batch_bytes,
            max_batch_seconds=_MAX_BATCH_SECONDS,
            max_batch_delay=settings.max_batch_delay,
            max_queue_items=settings.max_queue_items,
            max_queue_bytes=settings.max_queue_bytes,
            quotas=Quotas(
                settings.largest_caller_requests,
                settings.largest_caller_bytes,
                settings.caller_max_seconds or _NO_LIMIT,
                settings.caller_max_rate or _NO_LIMIT,
            ),
            prepare_threads=decode_threads,
            threads=settings.threads or backend.concurrency(cpus),
            inline_bytes=backend.inline_bytes,
        )
        self._image_threads = ThreadPoolExecutor(decode_threads + 1, thread_name_prefix="decode")
        self._decode_processes = DecodeProcesses(decode_threads) if settings.decode_isolation == "process" else None
        service = PoolService(
            self._batcher,
            self._image_threads,
            server_info.responder(settings, backend, worker=worker.number),
            max_message_bytes=settings.max_message_bytes,
            max_image_pixels=settings.max_image_pixels,
            max_request_seconds=settings.max_request_seconds,
            seconds_per_step=calibrate(),
            decode=self._decode_processes.decode_scanned if self._decode_processes else images.decode_scanned,
        )
        self._registry = CollectorRegistry()
        self._server = GrpcServer(
            settings, service, metrics.CallMetrics(self._registry), shared_port=self._is_supervised
        )
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
        metrics_address = self._settings.metrics_address_of(self._worker.number)
        with metrics.serve(self._registry, metrics_address, self._batcher, self._backend):
            address = await self._server.start()
            # The objects that exist now live as long as the process. Freezing them keeps the garbage collector from
            # traversing torch's 200,000 objects again and again.
            gc.collect()
            gc.freeze()
            self._worker.on_serving(self._ready_line(address))
            ended = asyncio.ensure_future(self._server.wait_for_termination())
            stop = asyncio.ensure_future(self._stop.wait())
            await asyncio.wait((ended, stop), return_when=asyncio.FIRST_COMPLETED)
            if not stop.done():
                raise ServerEnded from ended.exception()
            await self._drain()
            await asyncio.wait((ended,))
        self._image_threads.shutdown()
        if self._decode_processes:
            self._decode_processes.close()

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        if self._is_supervised:
            # Ctrl-C reaches a worker twice: as SIGINT, which it ignores, and from the supervisor as SIGTERM. If both
            # counted, the second signal would end the process without draining.
            loop.add_reader(self._worker.supervisor, self._supervisor_ended)
        else:
            loop.add_signal_handler(signal.SIGINT, self._stop.set)

    def _supervisor_ended(self) -> None:
        asyncio.get_running_loop().remove_reader(self._worker.supervisor)
        _log.error("the supervisor has ended, stopping")
        self._stop.set()

    def _ready_line(self, address: str) -> str:
        device = self._backend.devices()[0]
        return (
            f"poolservice {__version__} on {device.name} ({device.description}, torch {torch_version()}) "
            f"is serving at {address}"
        )

    async def _drain(self) -> None:
        grace_period = self._settings.grace_period
        _log.info("stopping", grace_period=grace_period)
        self._stop.clear()
        await self._server.report_not_serving()
        drained = asyncio.ensure_future(self._finish_requests(grace_period))
        second_signal = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait((drained, second_signal), return_when=asyncio.FIRST_COMPLETED)
        if not drained.done():
            _log.warning("stopping immediately after a second signal")
            await self._server.stop(None)
        second_signal.cancel()
        await drained
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
