"""What is counted, in Prometheus' terms, and where it is read."""

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import accumulate

import structlog
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from poolservice_server.backend import Backend
from poolservice_server.batcher import Batcher
from poolservice_server.settings import SettingsError

_log = structlog.get_logger(__name__)

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_BOUNDS = (*map(str, _SECONDS), "+Inf")


class CallMetrics(Collector):
    """Calls by method and status, their time, and how many run; counted on the event loop only.

    Plain numbers, which become metrics when somebody asks: a call costs half a microsecond here, where the library's
    own counter and histogram, which take a lock each, cost ten.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._running = 0
        self._ended: Counter[tuple[str, str]] = Counter()
        self._times: dict[str, _Times] = {}
        registry.register(self)

    def started(self) -> float:
        """A call came in; returns when, for `ended`."""
        self._running += 1
        return time.perf_counter()

    def ended(self, method: str, code: str, started: float) -> None:
        """A call has its outcome, which is a status of gRPC by name."""
        self._running -= 1
        self._ended[method, code] += 1
        times = self._times.get(method)
        if times is None:
            times = self._times[method] = _Times()
        seconds = time.perf_counter() - started
        times.counts[bisect_left(_SECONDS, seconds)] += 1
        times.total += seconds

    def collect(self) -> Iterable[Metric]:
        """The metrics as they are now."""
        # Copies, since they are read on the thread of the metrics' server.
        ended, times = self._ended.copy(), self._times.copy()
        calls = CounterMetricFamily(
            "poolservice_calls", "Calls that ended, by method and status.", labels=["method", "code"]
        )
        for labels, count in ended.items():
            calls.add_metric(labels, count)
        yield calls
        seconds = HistogramMetricFamily(
            "poolservice_call_seconds", "Seconds from a call's arrival to its outcome, by method.", labels=["method"]
        )
        for method, one in times.items():
            seconds.add_metric([method], list(zip(_BOUNDS, accumulate(one.counts), strict=True)), one.total)
        yield seconds
        yield GaugeMetricFamily("poolservice_calls_running", "Calls that have no outcome yet.", self._running)


class _Times:
    """How long the calls of a method took: how many ended within each bound but not the one before, and in all."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * len(_BOUNDS)
        self.total = 0.0


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
        yield GaugeMetricFamily("poolservice_waiting_items", "Requests that wait for a device.", now.queued_requests)
        yield GaugeMetricFamily("poolservice_held_items", "Requests that wait or run.", now.admitted_requests)
        yield GaugeMetricFamily(
            "poolservice_held_bytes", "Bytes that waiting and running requests hold.", now.admitted_bytes
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
            for event in ("payloads", "out_of_memory", "failures", "suspensions", "probes"):
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
