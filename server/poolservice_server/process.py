"""The server's process: puts the rooms together, opens the ports, says when it serves, and stops in good order."""

import asyncio
import gc
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import grpc
import grpc.aio
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry

from poolservice import __version__
from poolservice_server import allocator, log, metrics, server_info
from poolservice_server.backend import Backend, choose_backend, torch_version
from poolservice_server.backend.device import NoDevice
from poolservice_server.batcher import Batcher
from poolservice_server.core.service import PoolService
from poolservice_server.cpu_count import usable_cores
from poolservice_server.grpc_adapter import auth, environment, event_loop, multi_accept
from poolservice_server.grpc_adapter.servicer import SERVICE_NAME, PoolServicer
from poolservice_server.settings import Settings, SettingsError

_log = structlog.get_logger(__name__)

# Long enough that what a batch costs beside its items does not count, on a GPU too.
_MAX_BATCH_SECONDS = 0.02

# Health is asked for the server as a whole, or for the service by its name.
_HEALTH_NAMES = ("", SERVICE_NAME)


class Worker(NamedTuple):
    """This process among those that share an address.

    Attributes:
        number: counted from 0.
        serving: called with the banner once it serves.
        supervisor: a file descriptor that ends when the supervisor does; -1 where there is none.
    """

    number: int
    serving: Callable[[str], None]
    supervisor: int


def _print_banner(banner: str) -> None:
    # Scripts wait for this line and read the address that it ends with.
    print(banner, flush=True)  # noqa: T201 - what a script reads


ALONE = Worker(0, _print_banner, -1)


def run(settings: Settings, worker: Worker = ALONE) -> None:
    """Serve in this process until it is told to stop.

    Raises:
        SettingsError: the device is not there, or the address cannot be listened on.
        ServerEnded: gRPC's server ended by itself.
    """
    log.configure(settings.log_level, settings.log_format)
    allocator.keep_large_messages()
    try:
        backend = choose_backend(
            settings.device, require_gpu=settings.require_gpu, max_batch_bytes=settings.max_batch_bytes
        )
    except NoDevice as error:
        raise SettingsError(f"{error} (--device, --require-gpu)") from None

    async def serve() -> None:
        await App(settings, backend, worker).serve()

    with asyncio.Runner(loop_factory=event_loop.EventLoop) as runner:
        runner.run(serve())


class ServerEnded(Exception):
    """gRPC's server ended by itself. What is left of it can bring the process down, so a new process must serve."""

    def __init__(self) -> None:
        super().__init__("the gRPC server ended by itself; this process ends too, start it again")


class App:
    """One serving process."""

    def __init__(self, settings: Settings, backend: Backend, worker: Worker) -> None:
        cores = max(1, usable_cores() // settings.workers)
        self._settings = settings
        self._worker = worker
        self._backend = backend
        self._batcher = Batcher(
            backend.run,
            max_batch_size=settings.max_batch_size,
            max_batch_bytes=settings.max_batch_bytes,
            max_batch_seconds=_MAX_BATCH_SECONDS,
            max_batch_delay=settings.max_batch_delay,
            max_queue_items=settings.max_queue_items,
            max_queue_bytes=settings.max_queue_bytes,
            threads=settings.threads or backend.concurrency(cores),
            inline_bytes=backend.inline_bytes,
        )
        self._decoders = ThreadPoolExecutor(settings.decode_threads or cores, thread_name_prefix="decode")
        service = PoolService(
            self._batcher,
            self._decoders,
            server_info.responder(settings, backend, worker=worker.number),
            max_message_bytes=settings.max_message_bytes,
            max_image_pixels=settings.max_image_pixels,
        )
        self._registry = CollectorRegistry()
        self._servicer = PoolServicer(service, metrics.CallMetrics(self._registry), auth.access(settings))
        self._credentials = auth.credentials(settings)
        self._health = health.aio.HealthServicer()
        self._stop = asyncio.Event()

    async def serve(self) -> None:
        """Serve until SIGTERM or SIGINT, then stop: what was accepted is answered within the grace period.

        A second signal ends at once.

        Raises:
            SettingsError: the address cannot be listened on.
            ServerEnded: gRPC's server ended by itself.
        """
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        if self._worker.supervisor >= 0:
            # Ctrl-C reaches a supervisor's workers too, and would be the first of two signals to them.
            loop.add_reader(self._worker.supervisor, self._orphaned)
        else:
            loop.add_signal_handler(signal.SIGINT, self._stop.set)
        metrics_address = self._settings.metrics_address_of(self._worker.number)
        with metrics.serve(self._registry, metrics_address, self._batcher, self._backend):
            server, address = await self._start()
            # What is here now stays: Python's collector need not walk through torch's 200,000 objects again and again.
            gc.collect()
            gc.freeze()
            await self._say(health_pb2.HealthCheckResponse.SERVING)
            self._worker.serving(self._banner(address))
            # Its end is waited for without being cancelled: grpc.aio would take that for the end itself.
            ended = asyncio.ensure_future(server.wait_for_termination())
            stopped = asyncio.ensure_future(self._stop.wait())
            await asyncio.wait((ended, stopped), return_when=asyncio.FIRST_COMPLETED)
            if not stopped.done():
                raise ServerEnded from ended.exception()
            await self._drain(server)
            await asyncio.wait((ended,))
        self._decoders.shutdown()

    def _orphaned(self) -> None:
        asyncio.get_running_loop().remove_reader(self._worker.supervisor)
        _log.error("the supervisor is gone, stopping")
        self._stop.set()

    def _banner(self, address: str) -> str:
        device = self._backend.devices()[0]
        return (
            f"poolservice {__version__} on {device.name} ({device.description}, torch {torch_version()}) "
            f"is serving at {address}"
        )

    async def _start(self) -> tuple[grpc.aio.Server, str]:
        address = self._settings.address
        options = _options(self._settings, shared=self._worker.supervisor >= 0)
        server = grpc.aio.server(options=options) if self._settings.plain_server else multi_accept.server(options)
        self._servicer.add_to(server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        try:
            port = (
                server.add_insecure_port(address)
                if self._credentials is None
                else server.add_secure_port(address, self._credentials)
            )
        except RuntimeError:
            raise SettingsError(
                f"cannot listen at {address} (--address): the port may be taken, the host may not be this machine's, "
                "or the port may need more rights"
            ) from None
        await server.start()
        bound = address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"
        return server, bound

    async def _drain(self, server: grpc.aio.Server) -> None:
        grace = self._settings.grace_period
        _log.info("stopping", grace_period=grace)
        self._stop.clear()
        await self._say(health_pb2.HealthCheckResponse.NOT_SERVING)
        drained = asyncio.ensure_future(self._finish(server, grace))
        again = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait((drained, again), return_when=asyncio.FIRST_COMPLETED)
        if not drained.done():
            _log.warning("stopping at once, a second signal came")
            await server.stop(None)
        again.cancel()
        await drained
        _log.info("stopped")

    async def _finish(self, server: grpc.aio.Server, grace: float) -> None:
        deadline = asyncio.get_running_loop().time() + grace
        try:
            async with asyncio.timeout_at(deadline):
                await self._batcher.drain()
        except TimeoutError:
            _log.warning("the grace period is over, some requests are not answered")
        await server.stop(max(0.0, deadline - asyncio.get_running_loop().time()))

    async def _say(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for name in _HEALTH_NAMES:
            await self._health.set(name, status)


def _options(settings: Settings, *, shared: bool) -> list[tuple[str, Any]]:
    # A message up to twice the limit is read and refused in our words; gRPC's own words, which do not say how to
    # raise the limit, come only beyond that.
    return [
        ("grpc.max_receive_message_length", 2 * settings.max_message_bytes),
        ("grpc.max_send_message_length", -1),
        # A megabyte of compressed zeros costs gigabytes before anybody can refuse it: none (1) unless it is asked for.
        ("grpc.compression_enabled_algorithms_bitset", 0b111 if settings.compression else 1),
        # A client that has more under way on one connection loses the calls beyond (REFUSED_STREAM), although gRPC's
        # own should wait with them; the queue is what bounds the work.
        ("grpc.max_concurrent_streams", 1024),
        # A client may ask every ten seconds whether the connection still stands; by default five minutes is too often.
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.max_metadata_size", 8192),
        ("grpc.absolute_max_metadata_size", 16384),
        # Workers share a port on purpose; two servers on one port would share its callers without a word.
        ("grpc.so_reuseport", int(shared)),
        *environment.OPTIONS,
    ]
