"""A backbone without an engine: its network is a few lines of numpy, and runs where the tests want it to."""

import threading
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from poolservice_server.backbone_stage import BackboneInput, BackboneResult, BackboneStage, ClassChoice, ClassResult
from poolservice_server.backbones.backbone import Backbone, Backbones, BrokenBackbone, Output
from poolservice_server.backbones.manifest import Input, Preprocessing
from poolservice_server.pool_stage import BatchKey, PoolStage, SpecResult
from poolservice_server.pooling import run_on_arrays
from poolservice_server.stop import Stop

LABELS = ("cat", "dog", "a fish")
HEAD = np.array([[1.0, 0.0, 2.0, 0.0], [0.0, -1.0, 0.0, 1.0], [0.5, 0.5, 0.5, 0.5]], np.float32)
BIAS = np.array([0.25, 0.0, -1.0], np.float32)

_OUTPUTS: Mapping[str, Output] = MappingProxyType(
    {"features": Output("map", (4, 2, 2)), "embedding": Output("vector", (4,))}
)


class Ran(NamedTuple):
    """The result of `FakeNetwork` for one payload."""

    result: BackboneResult
    device: str
    batch_size: int


class FakeNetwork:
    """Runs batches as a device does. The outputs are means of the samples' quarters, scaled by 1 to 4.

    Attributes:
        batches: the key and the payloads of each batch.
        threads: the thread on which each batch ran.
        error: raised instead of a result, if it is set.
    """

    def __init__(self) -> None:
        self.batches: list[tuple[BatchKey, list[BackboneInput]]] = []
        self.threads: list[threading.Thread] = []
        self.error: Exception | None = None

    def __call__(self, key: BatchKey, payloads: list[Any], stop: Stop) -> Sequence[Ran]:
        self.batches.append((key, list(payloads)))
        self.threads.append(threading.current_thread())
        if self.error is not None:
            raise self.error
        assert isinstance(key.stage, BackboneStage)
        return [Ran(_result(key.stage, payload), "fake", len(payloads)) for payload in payloads]


def features_of(samples: np.ndarray) -> np.ndarray:
    """Return the output "features" (N, 4, 2, 2) of samples, uint8 or normalized."""
    normalized = samples.astype(np.float32) / 255 if samples.dtype == np.uint8 else samples
    count, channels, height, width = normalized.shape
    quarters = normalized.reshape(count, channels, 2, height // 2, 2, width // 2).mean(axis=(1, 3, 5))
    return np.ascontiguousarray(quarters[:, None] * np.arange(1, 5, dtype=np.float32)[:, None, None])


def _result(stage: BackboneStage, payload: BackboneInput) -> BackboneResult:
    features = features_of(payload.samples)
    specs: tuple[SpecResult, ...] = ()
    if payload.specs:
        specs = run_on_arrays(PoolStage(payload.specs), features.reshape(-1, 2, 2))
    elif payload.classes is None:
        is_map = stage.output == "features"
        specs = (SpecResult(features.reshape(-1, 2, 2) if is_map else features.mean(axis=(2, 3))),)
    classes = None if payload.classes is None else _classes(features[0], payload.classes)
    return BackboneResult(specs, classes, 0.25)


def _classes(features: np.ndarray, wanted: ClassChoice) -> ClassResult:
    logits = HEAD @ features.mean(axis=(1, 2)) + BIAS
    exponentials = np.exp(logits - logits.max())
    best = np.argsort(-logits)[: wanted.top]
    indices = np.array([*best, *(index for index in wanted.classes if index not in best)], np.int64)
    maps = np.einsum("kc,chw->khw", HEAD[indices], features) if wanted.activation_maps else None
    return ClassResult(indices, logits[indices], (exponentials / exponentials.sum())[indices], maps)


def backbone(name: str = "net", **changes: Any) -> Backbone:
    """Return a backbone for samples of 3 x 8 x 8 that are squashed to that size."""
    made = Backbone(
        name=name,
        description="a network for tests",
        licence="Apache-2.0",
        source="numpy",
        fingerprint="0123456789abcdef0123456789abcdef",
        input=Input(height=8, width=8),
        preprocessing=Preprocessing(resize="squash", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
        outputs=_OUTPUTS,
        default_output="features",
        labels=LABELS,
        head_output="features",
        engines=("numpy on fake",),
        seconds=0.002,
        memory_bytes=123_456,
    )
    return made._replace(**changes)


def backbones(*serving: Backbone, broken: tuple[BrokenBackbone, ...] = ()) -> Backbones:
    """Return the backbones of a server."""
    return Backbones({one.name: one for one in serving}, broken)
