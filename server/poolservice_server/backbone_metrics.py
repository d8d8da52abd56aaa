"""Prometheus metrics of backbones."""

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from poolservice_server.backbones.backbone import Backbones
from poolservice_server.core.backbone_counts import BackboneCounts


class BackboneMetrics(Collector):
    """The backbones' memory and counters, read when they are scraped."""

    def __init__(self, backbones: Backbones, counts: BackboneCounts) -> None:
        self._backbones = backbones
        self._counts = counts

    def collect(self) -> Iterable[Metric]:
        """Return the metrics as they are now."""
        samples = CounterMetricFamily(
            "poolservice_backbone_samples", "Images and preprocessed samples that a backbone ran.", labels=["backbone"]
        )
        seconds = CounterMetricFamily(
            "poolservice_backbone_seconds",
            "Time in which a backbone ran; divided by poolservice_backbone_samples_total, the mean time of a sample.",
            labels=["backbone"],
        )
        failures = CounterMetricFamily(
            "poolservice_backbone_failures",
            "Requests for which the network of a backbone could give no result, such as NaN.",
            labels=["backbone"],
        )
        memory = GaugeMetricFamily(
            "poolservice_backbone_memory_bytes",
            "Memory of a backbone's weights and activations, measured at start.",
            labels=["backbone"],
        )
        for name, backbone in self._backbones.serving.items():
            samples.add_metric([name], self._counts.samples[name])
            seconds.add_metric([name], self._counts.seconds.get(name, 0.0))
            failures.add_metric([name], self._counts.failures[name])
            memory.add_metric([name], backbone.memory_bytes)
        yield samples
        yield seconds
        yield failures
        yield memory
