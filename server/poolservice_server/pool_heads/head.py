"""A pool head that serves, the heads of a server, and the spec of a head that the server has."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from poolservice import specs
from poolservice.errors import InvalidRequest
from poolservice.specs import PoolSpec
from poolservice.specs.sequential import Sequential2d
from poolservice_server.cache import ProcessWide
from poolservice_server.foreign_text import quote
from poolservice_server.operator_costs.cost import Sample
from poolservice_server.pool_heads.kind import Geometry
from poolservice_server.settings.errors import did_you_mean

# An error lists up to this many names.
_MAX_LISTED = 50


class PoolHead(ProcessWide):
    """A pool head that serves. Heads with the same fingerprint are equal.

    Attributes:
        name: the name in requests.
        kind: the name of its kind.
        parameters: the table [parameters] of its `head.toml`.
        geometry: the samples that it takes, and their cost.
        weights: its tensors by name, float32.
        fingerprint: identifies kind, parameters and weights.
        description: what it is.
        licence: the licence of the weights.
        source: where it comes from.
    """

    __slots__ = (
        "description",
        "fingerprint",
        "geometry",
        "kind",
        "licence",
        "name",
        "parameters",
        "source",
        "weights",
    )

    def __init__(
        self,
        name: str,
        kind: str,
        parameters: Any,
        geometry: Geometry,
        weights: Mapping[str, np.ndarray],
        *,
        fingerprint: str,
        description: str = "",
        licence: str = "",
        source: str = "",
    ) -> None:
        self.name = name
        self.kind = kind
        self.parameters = parameters
        self.geometry = geometry
        self.weights = weights
        self.fingerprint = fingerprint
        self.description = description
        self.licence = licence
        self.source = source

    def __eq__(self, other: object) -> bool:
        return self.fingerprint == other.fingerprint if isinstance(other, PoolHead) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    @property
    def memory_bytes(self) -> int:
        """The memory of the weights."""
        return sum(weight.nbytes for weight in self.weights.values())

    def result_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return (D,), the shape of the result for a sample of `shape`, (C, H, W) or (C,).

        Raises:
            InvalidRequest: the head does not take such a sample.
        """
        channels, spatial = shape[0], shape[1:]
        geometry = self.geometry
        if not geometry.takes_vectors:
            if not spatial:
                raise self._refusal(shape, "a feature map, and the layer before it gives a vector")
            if geometry.spatial is not None and geometry.spatial != spatial:
                height, width = geometry.spatial
                raise self._refusal(
                    shape, f"feature maps of {height} x {width}, because it has weights for each position"
                )
        elif spatial not in ((), geometry.spatial):
            raise self._refusal(
                shape, "one vector per sample: pool the map before it, such as with Sequential([GeMPool2d(), ...])"
            )
        if channels != geometry.channels:
            raise self._refusal(shape, f"{geometry.channels} channels")
        if spatial and spatial[0] * spatial[1] < geometry.min_positions:
            raise self._refusal(shape, f"at least {geometry.min_positions} positions")
        return (geometry.results,)

    def cost(self, sample: Sample) -> tuple[float, float]:
        """Return the steps of pooling a sample, and the number of floats in its intermediates at the peak."""
        positions = sample.values // sample.channels
        geometry = self.geometry
        floats = geometry.position_floats * positions + 2 * (geometry.results + geometry.channels)
        return geometry.steps + geometry.position_steps * positions, floats

    def _refusal(self, shape: tuple[int, ...], takes: str) -> InvalidRequest:
        return InvalidRequest(f"head {self.name} ({self.kind}) takes {takes}; got {shape}", field="tensor.shape")


class BrokenHead(NamedTuple):
    """A head whose files are missing or wrong, without which the server started."""

    name: str
    reason: str


@dataclass(frozen=True, repr=False)
class PoolHead2d(specs.PoolHead2d):
    """The spec of a pool head that the server has.

    Args:
        head: the head of that name.
    """

    head: PoolHead

    def __repr__(self) -> str:
        """Return the constructor call of the contract's spec."""
        return f"PoolHead2d(name={self.name!r})"

    def sample_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return (D,)."""
        return self.head.result_shape(shape)


class PoolHeads(ProcessWide):
    """The pool heads of a server.

    Attributes:
        serving: the heads that serve, by name.
        broken: the others.
    """

    def __init__(self, serving: Mapping[str, PoolHead], broken: tuple[BrokenHead, ...] = ()) -> None:
        self.serving = MappingProxyType(dict(serving))
        self.broken = broken

    def resolve(self, spec: PoolSpec) -> PoolSpec:
        """Return a spec in which each PoolHead2d has its head.

        Raises:
            InvalidRequest: there is no such head, or it does not serve.
        """
        if isinstance(spec, specs.PoolHead2d):
            try:
                return PoolHead2d(spec.name, self._find(spec.name))
            except InvalidRequest as error:
                raise error.within(spec.operator) from None
        if not isinstance(spec, Sequential2d) or not any(isinstance(one, specs.PoolHead2d) for one in spec.layers):
            return spec
        layers = []
        for number, layer in enumerate(spec.layers):
            try:
                layers.append(self.resolve(layer))
            except InvalidRequest as error:
                raise error.within(f"{spec.operator}.layers[{number}]") from None
        return replace(spec, layers=tuple(layers))

    def _find(self, name: str) -> PoolHead:
        head = self.serving.get(name)
        if head is not None:
            return head
        broken = next((one for one in self.broken if one.name == name), None)
        if broken is not None:
            raise InvalidRequest(f"head {name} does not serve: {broken.reason}", field="name")
        names = list(self.serving)
        further = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
        has = f"has {', '.join(names[:_MAX_LISTED])}{further}" if names else "has no heads; start it with --heads"
        raise InvalidRequest(
            f"there is no head {quote(name)}; this server {has}{did_you_mean(name, names)}", field="name"
        )


NO_HEADS = PoolHeads({})
