"""Prometheus metrics of calls, batches, devices, backbones, caches and files."""

import logging
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import accumulate

import structlog
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from poolservice_server.backbone_metrics import BackboneMetrics
from poolservice_server.backbones.backbone import Backbones
from poolservice_server.backend import Backend
from poolservice_server.batcher import Batcher
from poolservice_server.cache import caches
from poolservice_server.core.backbone_counts import BackboneCounts
from poolservice_server.core.call_record import CallRecord
from poolservice_server.file_watch import FileWatch

_log = structlog.get_logger(__name__)

_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_BUCKET_LABELS = (*map(str, _BUCKETS), "+Inf")

_REQUEST_OUTCOMES = ("accepted", "refused", "completed", "failed", "expired", "cancelled")
_DEVICE_EVENTS = ("out_of_memory", "failures", "suspensions", "probes")


class CallMetrics(Collector):
    """The counts of calls by method and status, and their durations. The event loop updates them.

    These are plain numbers that become metrics when they are scraped. They cost half a microsecond per call; the
    counter and histogram of prometheus_client, each of which takes a lock, cost ten.
    """

    def __init__(self) -> None:
        self._logs_calls = logging.getLogger(__name__).isEnabledFor(logging.DEBUG)
        self._ended: Counter[tuple[str, str]] = Counter()
        self._durations: dict[str, _Durations] = {}

    def observe(self, record: CallRecord) -> None:
        """Count a call that ended, and log it at level debug."""
        self._ended[record.method, record.code] += 1
        durations = self._durations.get(record.method)
        if durations is None:
            durations = self._durations[record.method] = _Durations()
        seconds = time.perf_counter() - record.started
        durations.counts[bisect_left(_BUCKETS, seconds)] += 1
        durations.total += seconds
        if self._logs_calls:
            milliseconds = round(seconds * 1000, 3)
            _log.debug(
                "call",
                method=record.method,
                code=record.code,
                milliseconds=milliseconds,
                caller=record.caller,
                reason=record.reason,
            )

    def collect(self) -> Iterable[Metric]:
        """Return the metrics as they are now."""
        # Copied, because this runs on the metrics server's thread while the event loop counts calls.
        ended, durations = self._ended.copy(), self._durations.copy()
        calls = CounterMetricFamily(
            "poolservice_calls", "Calls that have ended, by method and gRPC status.", labels=["method", "code"]
        )
        for labels, count in ended.items():
            calls.add_metric(labels, count)
        yield calls
        seconds = HistogramMetricFamily(
            "poolservice_call_duration_seconds",
            "Time from a call's arrival to its response or error, by method.",
            labels=["method"],
        )
        for method, one in durations.items():
            seconds.add_metric([method], list(zip(_BUCKET_LABELS, accumulate(one.counts), strict=True)), one.total)
        yield seconds


class _Durations:
    """The durations of one method's calls: the number in each bucket, and their sum in seconds."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * len(_BUCKET_LABELS)
        self.total = 0.0


class BatcherMetrics(Collector):
    """The batcher's counters, the unsent responses and the calls in progress, read when they are scraped."""

    def __init__(self, batcher: Batcher, unsent_bytes: Callable[[], int], calls_in_progress: Callable[[], int]) -> None:
        self._batcher = batcher
        self._calls_in_progress = calls_in_progress
        self._unsent_bytes = unsent_bytes

    def collect(self) -> Iterable[Metric]:
        """Return the metrics as they are now."""
        now = self._batcher.snapshot()
        requests = CounterMetricFamily(
            "poolservice_requests",
            "Requests that were accepted or refused, and how they ended.",
            labels=["outcome"],
        )
        for outcome in _REQUEST_OUTCOMES:
            requests.add_metric([outcome], getattr(now, outcome))
        yield requests
        yield GaugeMetricFamily(
            "poolservice_calls_in_progress", "Calls that have started and not ended.", self._calls_in_progress()
        )
        yield CounterMetricFamily(
            "poolservice_requests_over_quota",
            "Requests that were refused because of a quota of their caller; they also count as refused.",
            now.over_quota,
        )
        yield GaugeMetricFamily(
            "poolservice_queue_entries", "Requests that wait in the queue for a device.", now.queue_entries
        )
        yield GaugeMetricFamily(
            "poolservice_admitted_requests",
            "Requests that the server has admitted: they wait, run, or have a response that is not built yet.",
            now.admitted_requests,
        )
        yield GaugeMetricFamily(
            "poolservice_admitted_bytes",
            "Memory that admitted requests need, and that responses take until they are sent.",
            now.admitted_bytes,
        )
        yield GaugeMetricFamily(
            "poolservice_admitted_seconds",
            "Estimated computing time of the admitted requests' work that has not ended.",
            now.admitted_seconds,
        )
        yield GaugeMetricFamily(
            "poolservice_unsent_bytes",
            "Memory of the large responses that are built and that their callers have not read yet.",
            self._unsent_bytes(),
        )
        yield CounterMetricFamily("poolservice_batches", "Batches that have started.", now.batches)
        yield CounterMetricFamily(
            "poolservice_batched_requests",
            "Requests in those batches; divided by poolservice_batches_total, the mean batch size.",
            now.batched_requests,
        )
        yield CounterMetricFamily(
            "poolservice_stopped_work",
            "Batches and decodings that ended early, because nobody waited for them any more.",
            now.stopped,
        )


class DeviceMetrics(Collector):
    """The devices' states and counters, read when they are scraped."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def collect(self) -> Iterable[Metric]:
        """Return the metrics as they are now."""
        suspended = GaugeMetricFamily(
            "poolservice_device_suspended",
            "1 while a device is suspended after failures, otherwise 0.",
            labels=["device"],
        )
        for state in self._backend.devices():
            suspended.add_metric([state.name], float(state.suspended))
        yield suspended
        requests = CounterMetricFamily(
            "poolservice_device_requests",
            "Requests that a device ran; each part of a request that was split counts.",
            labels=["device"],
        )
        events = CounterMetricFamily(
            "poolservice_device_events",
            "Events on a device: out of memory, failures, suspensions, and probes while suspended.",
            labels=["device", "event"],
        )
        for name, counts in self._backend.counts().items():
            requests.add_metric([name], counts.payloads)
            for event in _DEVICE_EVENTS:
                events.add_metric([name, event], getattr(counts, event))
        yield requests
        yield events


class CacheMetrics(Collector):
    """What the caches of the process hold."""

    def collect(self) -> Iterable[Metric]:
        """Return the metrics as they are now."""
        entries = GaugeMetricFamily("poolservice_cache_entries", "Entries of each cache.", labels=["cache"])
        nbytes = GaugeMetricFamily(
            "poolservice_cache_bytes", "Memory that the entries of each cache take.", labels=["cache"]
        )
        for cache in caches():
            entries.add_metric([cache.name], cache.entries)
            nbytes.add_metric([cache.name], cache.nbytes)
        yield entries
        yield nbytes


class FileMetrics(Collector):
    """How often files were read again, such as certificates."""

    def __init__(self, watch: FileWatch) -> None:
        self._watch = watch

    def collect(self) -> Iterable[Metric]:
        """Return the metrics as they are now."""
        reloads = CounterMetricFamily(
            "poolservice_file_reloads",
            "Files that were read again after a change or SIGHUP: loaded, or kept because the new ones are wrong.",
            labels=["files", "outcome"],
        )
        for name in self._watch.names:
            for outcome in ("loaded", "kept"):
                reloads.add_metric([name, outcome], self._watch.counts[name, outcome])
        yield reloads


def register(
    registry: CollectorRegistry,
    calls: CallMetrics,
    batcher: Batcher,
    backend: Backend,
    watch: FileWatch,
    *,
    unsent_bytes: Callable[[], int],
    calls_in_progress: Callable[[], int],
    backbones: Backbones,
    backbone_counts: BackboneCounts,
) -> None:
    """Add all metrics.

    Args:
        registry: where to add them.
        calls: the metrics of the calls.
        batcher: its counters are shown.
        backend: its devices are shown.
        watch: its counters are shown.
        unsent_bytes: returns the memory of the responses that are built and not sent yet.
        calls_in_progress: returns the number of calls that have started and not ended.
        backbones: their memory is shown.
        backbone_counts: the counters of the backbones.
    """
    registry.register(calls)
    registry.register(BatcherMetrics(batcher, unsent_bytes, calls_in_progress))
    registry.register(DeviceMetrics(backend))
    registry.register(BackboneMetrics(backbones, backbone_counts))
    registry.register(CacheMetrics())
    registry.register(FileMetrics(watch))
    # The process's resident memory, CPU time, start time and open files.
    ProcessCollector(registry=registry)
