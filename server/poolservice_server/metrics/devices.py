"""Metrics of devices: their batches, memory and failures."""

from collections.abc import Iterable

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from poolservice_server.backend import Backend
from poolservice_server.metrics.families import histogram_family

# The events, and the counters of DeviceCounts.
_EVENTS = {
    "out_of_memory": "out_of_memory",
    "failure": "failures",
    "suspension": "suspensions",
    "probe": "probes",
    "fallback": "fallbacks",
}


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
            "Requests that a device computed; each part of a request that was split counts.",
            labels=["device"],
        )
        events = CounterMetricFamily(
            "poolservice_device_events",
            "Events on a device: out of memory, failures, suspensions, probes while suspended, and batches that the "
            "next device ran.",
            labels=["device", "event"],
        )
        memory = GaugeMetricFamily(
            "poolservice_device_memory_bytes",
            "Memory that torch has allocated for tensors, and reserved on the device.",
            labels=["device", "state"],
        )
        counts = self._backend.counts()
        for name, count in counts.items():
            requests.add_metric([name], count.payloads)
            for event, attribute in _EVENTS.items():
                events.add_metric([name, event], getattr(count, attribute))
            for state_name, nbytes in self._backend.device(name).memory().items():
                memory.add_metric([name, state_name], nbytes)
        yield requests
        yield events
        yield memory
        yield histogram_family(
            "poolservice_batch_size",
            "Batches that a device computed, by their number of requests.",
            ["device"],
            {(name,): count.batch_sizes for name, count in counts.items()},
        )
