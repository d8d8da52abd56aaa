"""Metrics of the process: its readiness, its caches, the files that it reads again, and its versions."""

import platform
from collections.abc import Iterable

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from poolservice import __version__
from poolservice_server.cache import caches
from poolservice_server.file_watch import FileWatch
from poolservice_server.readiness import Readiness


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


class ReadinessMetrics(Collector):
    """Whether the process is ready, as health checks report it."""

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness

    def collect(self) -> Iterable[Metric]:
        """Return the metrics as they are now."""
        yield GaugeMetricFamily(
            "poolservice_ready", "1 while health checks report SERVING, otherwise 0.", float(self._readiness.is_ready)
        )
        yield GaugeMetricFamily(
            "poolservice_readiness_probe_duration_seconds",
            "Duration of the last computation by which the server checked its device.",
            self._readiness.check_seconds,
        )


class InfoMetrics(Collector):
    """The versions of a serving process, and its device.

    Args:
        torch_version: torch's version.
        device: the device that is preferred.
    """

    def __init__(self, torch_version: str, device: str) -> None:
        self._values = [__version__, torch_version, platform.python_version(), device]

    def collect(self) -> Iterable[Metric]:
        """Return the metrics, which never change."""
        info = GaugeMetricFamily(
            "poolservice_info",
            "Always 1; the versions, and the device that is preferred.",
            labels=["version", "torch", "python", "device"],
        )
        info.add_metric(self._values, 1.0)
        yield info
