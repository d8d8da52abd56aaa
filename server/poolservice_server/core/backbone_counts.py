"""Counts of what the backbones have computed, for the metrics."""

from collections import Counter

from poolservice_server.backbone_stage import BackboneResult
from poolservice_server.batcher import Completed
from poolservice_server.histogram import Histogram


class BackboneCounts:
    """The counts of each backbone since the start, by its name. Only the event loop changes them.

    Attributes:
        samples: samples that ran.
        failures: requests for which the network could give no result.
        runs: how long each run took. A batch counts once.
    """

    def __init__(self) -> None:
        self.samples: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.runs: dict[str, Histogram] = {}
        # The last run of each backbone: its batch, and its seconds, because the backend may have split the batch.
        self._last_runs: dict[str, tuple[int, float]] = {}

    def count(self, backbone: str, samples: int, completed: Completed) -> None:
        """Count a request that ran."""
        result: BackboneResult = completed.result
        self.samples[backbone] += samples
        # The requests of a batch are counted one directly after another.
        run = completed.batch, result.backbone_seconds
        if self._last_runs.get(backbone) != run:
            self._last_runs[backbone] = run
            self.runs.setdefault(backbone, Histogram()).observe(result.backbone_seconds)
