"""All metrics of one serving process."""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Metric, ProcessCollector

from poolservice_server.backbones.backbone import Backbones
from poolservice_server.backend import Backend, torch_version
from poolservice_server.batcher import Batcher
from poolservice_server.core.service import PoolService
from poolservice_server.file_watch import FileWatch
from poolservice_server.grpc_adapter.server import GrpcServer
from poolservice_server.metrics.admission import AdmissionMetrics
from poolservice_server.metrics.backbones import BackboneMetrics
from poolservice_server.metrics.callers import CallerMetrics
from poolservice_server.metrics.calls import CallMetrics
from poolservice_server.metrics.devices import DeviceMetrics
from poolservice_server.metrics.families import Families, labelled, merged
from poolservice_server.metrics.process import CacheMetrics, FileMetrics, InfoMetrics, ReadinessMetrics
from poolservice_server.metrics.requests import RequestMetrics
from poolservice_server.metrics.workers import worker_state
from poolservice_server.readiness import Readiness


class ProcessMetrics:
    """All metrics of one serving process.

    Args:
        calls_in_progress: returns the number of calls that have started and not ended.

    Attributes:
        calls: counts the calls.
        requests: counts the requests.
    """

    def __init__(self, calls_in_progress: Callable[[], int]) -> None:
        callers = CallerMetrics()
        self.calls = CallMetrics(calls_in_progress)
        self.requests = RequestMetrics(callers)
        self._registry = CollectorRegistry()
        for collector in (self.calls, self.requests, callers):
            self._registry.register(collector)

    def add(
        self,
        batcher: Batcher,
        backend: Backend,
        service: PoolService,
        server: GrpcServer,
        readiness: Readiness,
        backbones: Backbones,
        watch: FileWatch,
    ) -> None:
        """Add the counters that the parts of the process keep."""
        refusals = (batcher.refusals, service.refusals, server.refusals)
        for collector in (
            AdmissionMetrics(batcher, refusals, service.unsent_bytes),
            DeviceMetrics(backend),
            BackboneMetrics(backbones, service.backbone_counts),
            ReadinessMetrics(readiness),
            CacheMetrics(),
            FileMetrics(watch),
            InfoMetrics(torch_version(), backend.devices()[0].name),
        ):
            self._registry.register(collector)
        # The process's memory, CPU time, start time and open files.
        ProcessCollector(registry=self._registry)

    def collect(self) -> Iterable[Metric]:
        """Return the metrics as they are now."""
        return self._registry.collect()

    async def collect_unsupervised(self) -> Families:
        """Return the metrics as those of worker 0, which has no supervisor."""
        return merged([worker_state({0: True}, {0: 0}), labelled(self.collect(), "0")])
