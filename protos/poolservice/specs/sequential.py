"""Sequential1d, Sequential2d and Sequential3d, and the function that chooses among them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Never

from poolservice.errors import InvalidRequest
from poolservice.specs.base import PoolSpec
from poolservice.specs.result_types import Values
from poolservice.specs.validation import is_list, shown

#: The limit of the layers of a sequence.
MAX_LAYERS = 16
_TAKES = f"must be a list of 1 to {MAX_LAYERS} specs such as [MaxPool2d(2), GeMPool2d()]"


@dataclass(frozen=True, repr=False)
class _Sequential(PoolSpec[Values]):
    """Layers that are applied one after the other, each to the result of the one before, as by torch.nn.Sequential.

    out = layers[-1](... layers[1](layers[0](x))). Shapes and dtypes are those of the layers.

    Shape: (C, *) or (N, C, *) to the shape of the last layer's result.

    Range: as that of each layer. The result of one layer is rounded to its dtype before the next.

    NaN: the first layer decides what a NaN does; each next layer gets the result of the one before.

    Args:
        layers: 1 to 16 specs of the same number of dimensions. None may be a Sequential or have `return_indices`, and
            only the last one may give a vector, or one before a pool head that takes vectors. Required.

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: torch.nn.Sequential.
    """

    operator: ClassVar[str] = "sequential"
    layers: Sequence[PoolSpec]

    def __post_init__(self) -> None:
        if not is_list(self.layers) or not 1 <= len(self.layers) <= MAX_LAYERS:
            got = f"{len(self.layers)} of them" if is_list(self.layers) else _described(self.layers)
            raise InvalidRequest(f"{_TAKES}; got {got}", field="layers")
        for number, layer in enumerate(self.layers):
            field = f"layers[{number}]"
            if isinstance(layer, _Sequential):
                raise InvalidRequest("is a sequence itself; write its layers in the list", field=field)
            if not isinstance(layer, PoolSpec):
                raise InvalidRequest(f"must be a spec such as MaxPool2d(2); got {_described(layer)}", field=field)
            if layer.spatial_dims != self.spatial_dims:
                raise InvalidRequest(
                    f"must pool {self.spatial_dims} dimensions; {type(layer).__name__} pools {layer.spatial_dims}",
                    field=field,
                )
            if getattr(layer, "return_indices", False):
                raise InvalidRequest("a sequence has no indices; leave it out", field=f"{field}.return_indices")
        self._set("layers", tuple(self.layers))
        self._count_parameter_bytes()


class Sequential1d(_Sequential):
    """Layers over one dimension that are applied one after the other."""

    spatial_dims = 1


class Sequential2d(_Sequential):
    """Layers over two dimensions that are applied one after the other."""

    spatial_dims = 2


class Sequential3d(_Sequential):
    """Layers over three dimensions that are applied one after the other."""

    spatial_dims = 3


_BY_DIMENSIONS = {1: Sequential1d, 2: Sequential2d, 3: Sequential3d}


def Sequential(layers: Sequence[PoolSpec], *others: Never) -> PoolSpec[Values]:  # noqa: N802 - as torch.nn.Sequential
    """Return the spec that applies `layers` one after the other: Sequential1d, 2d or 3d, as its first layer requires.

    Raises:
        InvalidRequest: as by `Sequential2d`.
    """
    if others:
        raise InvalidRequest(f"{_TAKES}; got {1 + len(others)} arguments", field="layers")
    # Without a layer, or with something else in its place, any of the three raises the error.
    given: Sequence[object] = layers if is_list(layers) else ()
    first = next((layer for layer in given if isinstance(layer, PoolSpec)), None)
    return _BY_DIMENSIONS[first.spatial_dims if first is not None else 2](layers)


def _described(value: object) -> str:
    """Return a value for the error that it is not a spec."""
    if isinstance(value, type):
        return f"the class {value.__name__}; write {value.__name__}(...)"
    module = type(value).__module__
    text = " ".join(shown(value).split())
    return text if isinstance(value, PoolSpec) or module == "builtins" else f"{text} of {module}"
