"""What is counted, in Prometheus' terms, and where it is read."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType

import structlog
from google.rpc import code_pb2, status_pb2
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from poolservice_server.backend import Backend
from poolservice_server.batcher import Batcher
from poolservice_server.config import SettingsError

_log = structlog.get_logger(__name__)

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class CallMetrics:
    """Calls by method and status, their time, and how many run.

    Called on the event loop only. The series that calls count in are looked up once, which is most of the cost.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._finished = Counter(
            "poolservice_calls_total", "Calls that ended, by method and status.", ["method", "code"], registry=registry
        )
        self._seconds = Histogram(
            "poolservice_call_seconds",
            "Seconds from a call's arrival to its outcome, by method.",
            ["method"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._running = 0
        running = Gauge("poolservice_calls_running", "Calls that have no outcome yet.", registry=registry)
        running.set_function(lambda: self._running)
        self._histograms: dict[str, Histogram] = {}
        self._counters: dict[tuple[str, str], Counter] = {}

    def call(self, method: str) -> "Outcome":
        """Count one call from here to the end of the block; one whose caller left counts as CANCELLED."""
        return Outcome(self, method)

    def started(self) -> None:
        """A call came in."""
        self._running += 1

    def ended(self, method: str, code: str, seconds: float) -> None:
        """A call has its outcome."""
        self._running -= 1
        histogram = self._histograms.get(method)
        if histogram is None:
            histogram = self._histograms[method] = self._seconds.labels(method)
        histogram.observe(seconds)
        counter = self._counters.get((method, code))
        if counter is None:
            counter = self._counters[method, code] = self._finished.labels(method, code)
        counter.inc()


class Outcome:
    """How a call ended: OK unless told otherwise."""

    __slots__ = ("_method", "_metrics", "_started", "code")

    def __init__(self, metrics: CallMetrics, method: str) -> None:
        self._metrics = metrics
        self._method = method
        self._started = 0.0
        self.code = "OK"

    def failed(self, status: status_pb2.Status) -> status_pb2.Status:
        """Note the status of a call that failed, and hand it on."""
        self.code = code_pb2.Code.Name(status.code)
        return status

    def __enter__(self) -> "Outcome":
        self._started = time.perf_counter()
        self._metrics.started()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._metrics.ended(
            self._method, self.code if kind is None else "CANCELLED", time.perf_counter() - self._started
        )


class WorkCollector(Collector):
    """What the batcher and the devices have counted, read when somebody asks."""

    def __init__(self, batcher: Batcher, backend: Backend) -> None:
        self._batcher = batcher
        self._backend = backend

    def collect(self) -> Iterable[Metric]:
        """The metrics as they are now."""
        now = self._batcher.snapshot()
        items = CounterMetricFamily("poolservice_items", "Requests by what became of them.", labels=["outcome"])
        for outcome in ("accepted", "refused", "completed", "failed", "expired", "cancelled"):
            items.add_metric([outcome], getattr(now, outcome))
        yield items
        yield GaugeMetricFamily("poolservice_waiting_items", "Requests that wait for a device.", now.waiting_items)
        yield GaugeMetricFamily("poolservice_held_items", "Requests that wait or run.", now.held_items)
        yield GaugeMetricFamily(
            "poolservice_held_bytes", "Bytes that waiting and running requests hold.", now.held_bytes
        )
        yield CounterMetricFamily("poolservice_batches", "Batches that ran.", sum(now.batches.values()))
        yield CounterMetricFamily(
            "poolservice_batched_items",
            "Requests that ran in batches; over poolservice_batches_total, the mean size of a batch.",
            sum(size * count for size, count in now.batches.items()),
        )
        yield from self._devices()

    def _devices(self) -> Iterable[Metric]:
        suspended = GaugeMetricFamily(
            "poolservice_device_suspended", "1 while a device takes no work, 0 while it does.", labels=["device"]
        )
        for state in self._backend.devices():
            suspended.add_metric([state.name], float(state.suspended))
        yield suspended
        events = CounterMetricFamily(
            "poolservice_device_events", "What happened on a device, by kind.", labels=["device", "event"]
        )
        for name, counts in self._backend.counts().items():
            for event in ("items", "out_of_memory", "failures", "suspensions", "probes"):
                events.add_metric([name, event], getattr(counts, event))
        yield events


@contextmanager
def serve(registry: CollectorRegistry, address: str, batcher: Batcher, backend: Backend) -> Iterator[None]:
    """Serve the metrics at HOST:PORT until the end of the block; nowhere if it is empty.

    Raises:
        SettingsError: the address cannot be listened on.
    """
    registry.register(WorkCollector(batcher, backend))
    if not address:
        yield
        return
    host, _, port = address.rpartition(":")
    try:
        server, thread = start_http_server(int(port), host.strip("[]"), registry)
    except OSError as error:
        raise SettingsError(f"cannot serve metrics at {address} (--metrics-address): {error.strerror}") from None
    _log.info("serving metrics", url=f"http://{host}:{server.server_port}/metrics")
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
