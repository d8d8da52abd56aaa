"""The description of what a device does with a request: its stage, its batch key and its results.

Request validation builds these, so nothing here imports torch. `poolservice_server.pooling` executes a stage.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from poolservice.specs import PoolSpec
from poolservice_server.operator_shapes import layers_of
from poolservice_server.operators import needs_channels
from poolservice_server.stop import Stop, WorkStopped

if TYPE_CHECKING:
    from poolservice_server.backbone_stage import BackboneStage

__all__ = ["BatchKey", "PoolStage", "SpecResult", "Stop", "WorkStopped"]


@dataclass(frozen=True)
class PoolStage:
    """The pooling that a request asks for: all of its specs over the same planes.

    Two stages are equal if they compute the same.

    Attributes:
        specs: the specs, in the order of their results.
        unit_scale: True if the planes are the uint8 or uint16 values of a decoded image, which stand for 0 to 1. The
            results are then float32 and equal those of the planes divided by 255 or 65535: bit for bit for order
            statistics, within rounding for means.
        channels: the number of channels of a sample if a spec needs it, see `operators.needs_channels`; else 0, so that
            payloads of any number of channels can be batched.
    """

    specs: tuple[PoolSpec, ...]
    unit_scale: bool = False
    channels: int = 0

    @classmethod
    def of(cls, specs: tuple[PoolSpec, ...], channels: int, *, unit_scale: bool = False) -> "PoolStage":
        """Return the stage that pools samples of so many channels."""
        return cls(specs, unit_scale, channels if any(map(needs_channels, specs)) else 0)

    @cached_property
    def indivisible(self) -> int:
        """How many planes run together at least: those of a sample if a spec needs all. 0: all of a payload."""
        if any(spec.samples is not None for spec in self.specs):
            return 0
        layers = [layer for spec in self.specs for layer in layers_of(spec)]
        needs_samples = any(layer.takes_samples or layer.differs_by_channel for layer in layers)
        return self.channels if needs_samples else 1

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        # Needed several times per request, and the hash of the specs visits every parameter.
        return hash((self.specs, self.unit_scale, self.channels))


class BatchKey:
    """The requests that may be batched together: equal stages over payloads of equal spatial shape and dtype.

    The hash is computed once, because a key is looked up several times per request.

    Attributes:
        stage: what the device computes.
        spatial: the spatial shape of the planes, or of a backbone's samples.
        dtype: the dtype of the planes or samples.
    """

    __slots__ = ("_hash", "dtype", "spatial", "stage")

    def __init__(self, stage: "PoolStage | BackboneStage", spatial: tuple[int, ...], dtype: np.dtype) -> None:
        self.stage = stage
        self.spatial = spatial
        self.dtype = dtype
        self._hash = hash((stage, spatial, dtype))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BatchKey):
            return NotImplemented
        return (self.stage, self.spatial, self.dtype) == (other.stage, other.spatial, other.dtype)


class SpecResult(NamedTuple):
    """The result of one spec for one payload.

    Attributes:
        values: (P, *output spatial shape), or (N, *result) of an operator that takes samples; of the operator's result
            dtype.
        indices: int64 of the same shape if the spec asks for them, else None.
    """

    values: np.ndarray
    indices: np.ndarray | None = None
