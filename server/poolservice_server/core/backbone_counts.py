"""Counts of what the backbones have computed, for the metrics."""

from collections import Counter

from poolservice_server.backbone_stage import BackboneResult
from poolservice_server.batcher import Completed


class BackboneCounts:
    """The counts of each backbone since the start, by its name. Only the event loop changes them.

    Attributes:
        samples: samples that ran.
        failures: requests for which the network could give no result.
        seconds: the time in which they ran. A batch counts once: each of its requests has an equal share of its time.
    """

    def __init__(self) -> None:
        self.samples: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.seconds: dict[str, float] = {}

    def count(self, backbone: str, samples: int, completed: Completed) -> None:
        """Count a request that ran."""
        result: BackboneResult = completed.result
        self.samples[backbone] += samples
        seconds = result.backbone_seconds / completed.batch_size
        self.seconds[backbone] = self.seconds.get(backbone, 0.0) + seconds
