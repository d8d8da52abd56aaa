"""Metrics of calls: their number, duration and bytes, by method."""

import time
from collections import Counter
from collections.abc import Callable, Iterable

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from poolservice_server.core.call_record import CallRecord
from poolservice_server.histogram import Histogram
from poolservice_server.metrics.families import histogram_family


class _Method:
    """The calls of one method that have ended."""

    __slots__ = ("codes", "durations", "received_bytes", "sent_bytes")

    def __init__(self) -> None:
        self.codes: Counter[str] = Counter()
        self.durations = Histogram()
        self.received_bytes = 0
        self.sent_bytes = 0


class CallMetrics(Collector):
    """The metrics of the calls. The event loop updates them.

    Args:
        in_progress: returns the number of calls that have started and not ended.
    """

    def __init__(self, in_progress: Callable[[], int]) -> None:
        self._in_progress = in_progress
        self._methods: dict[str, _Method] = {}

    def observe(self, record: CallRecord) -> None:
        """Count a call that ended."""
        method = self._methods.get(record.method)
        if method is None:
            method = self._methods[record.method] = _Method()
        seconds = time.perf_counter() - record.started
        method.codes[record.code] += 1
        method.durations.observe(seconds)
        method.received_bytes += record.received_bytes
        method.sent_bytes += record.sent_bytes

    def collect(self) -> Iterable[Metric]:
        """Return the metrics as they are now."""
        # Copied, because this runs on another thread while the event loop counts calls.
        methods = self._methods.copy()
        calls = CounterMetricFamily(
            "poolservice_calls", "Calls that have ended, by method and gRPC status.", labels=["method", "code"]
        )
        received = CounterMetricFamily(
            "poolservice_received_bytes", "Request messages that have arrived completely.", labels=["method"]
        )
        sent = CounterMetricFamily(
            "poolservice_sent_bytes", "Response messages that were handed to gRPC.", labels=["method"]
        )
        for name, method in methods.items():
            for code, count in method.codes.copy().items():
                calls.add_metric([name, code], count)
            received.add_metric([name], method.received_bytes)
            sent.add_metric([name], method.sent_bytes)
        yield calls
        yield histogram_family(
            "poolservice_call_duration_seconds",
            "Time from a call's arrival to its response or error, by method.",
            ["method"],
            {(name,): method.durations for name, method in methods.items()},
        )
        yield GaugeMetricFamily(
            "poolservice_calls_in_progress", "Calls that have started and not ended.", self._in_progress()
        )
        yield received
        yield sent
