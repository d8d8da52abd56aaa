"""A batch of a backbone on a GPU: what the GPU computes, and how its flat list of tensors becomes results."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from poolservice_server.backbone_stage import BackboneInput, BackboneResult, BackboneStage, ClassResult
from poolservice_server.backend.stacking import to_results
from poolservice_server.pooling.array_types import TensorResult

if TYPE_CHECKING:
    from poolservice_server.backbones.engines.network import Network


class BackboneBatch:
    """A batch of requests for one output of a backbone.

    Args:
        network: the backbone on the GPU.
        stage: what to run.
        payloads: the requests.
    """

    def __init__(self, network: "Network", stage: BackboneStage, payloads: Sequence[BackboneInput]) -> None:
        self._network = network
        self._stage = stage
        self._payloads = payloads
        self._counts: list[int] = []
        self._classes: list[ClassResult | None] = []

    def compute(self, samples: torch.Tensor) -> list[TensorResult]:
        """Return the tensors of all requests, one after another; `samples` are theirs, on the GPU."""
        results = self._network.run_on_tensors(self._stage, self._payloads, samples)
        self._counts = [len(result.specs) for result in results]
        self._classes = [result.classes for result in results]
        return [tensors for result in results for tensors in result.specs]

    def results(self, fetched: Sequence[TensorResult], seconds: float) -> list[BackboneResult]:
        """Return the result of each request.

        Args:
            fetched: what `compute` returned, in CPU memory.
            seconds: how long the batch took.
        """
        results = []
        start = 0
        for count, classes in zip(self._counts, self._classes, strict=True):
            specs = to_results(fetched[start : start + count])
            results.append(BackboneResult(specs, classes, seconds))
            start += count
        return results
