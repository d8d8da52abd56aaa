"""Metrics of backbones."""

from collections.abc import Iterable, Mapping

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from poolservice_server.backbones.backbone import Backbones
from poolservice_server.core.backbone_counts import BackboneCounts
from poolservice_server.histogram import Histogram
from poolservice_server.metrics.families import histogram_family


class BackboneMetrics(Collector):
    """The backbones' memory, counters and runs, read when they are scraped."""

    def __init__(self, backbones: Backbones, counts: BackboneCounts) -> None:
        self._backbones = backbones
        self._counts = counts

    def collect(self) -> Iterable[Metric]:
        """Return the metrics as they are now."""
        samples = CounterMetricFamily(
            "poolservice_backbone_samples", "Images and preprocessed samples that a backbone ran.", labels=["backbone"]
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
        runs: Mapping[str, Histogram] = self._counts.runs
        for name, backbone in self._backbones.serving.items():
            samples.add_metric([name], self._counts.samples[name])
            failures.add_metric([name], self._counts.failures[name])
            memory.add_metric([name], backbone.memory_bytes)
        yield samples
        yield histogram_family(
            "poolservice_backbone_run_duration_seconds",
            "Runs of a backbone, each for one batch or one unbatched request.",
            ["backbone"],
            {(name,): runs.get(name) or Histogram() for name in self._backbones.serving},
        )
        yield failures
        yield memory
