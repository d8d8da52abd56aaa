"""Specs as messages of the wire, and back."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from types import MappingProxyType
from typing import Any

from google.protobuf.message import Message

from poolservice.errors import InvalidRequest
from poolservice.specs import adaptive, maxima, means, minima
from poolservice.specs.base import PoolSpec
from poolservice.v1 import pool_pb2

#: Every layer, by its operator's field in the wire's PoolSpec and its spatial dimensions.
LAYERS: Mapping[tuple[str, int], type[PoolSpec]] = MappingProxyType(
    {
        (layer.operator, layer.spatial_dims): layer
        for layer in (vars(maxima) | vars(minima) | vars(means) | vars(adaptive)).values()
        if isinstance(layer, type) and issubclass(layer, PoolSpec) and hasattr(layer, "spatial_dims")
    }
)

#: The operators, in the order of the wire's PoolSpec.
OPERATORS: tuple[str, ...] = tuple(
    field.name for field in pool_pb2.PoolSpec.DESCRIPTOR.oneofs_by_name["operator"].fields
)

# On the wire, what None says of an output size.
_KEEP = -1


def to_message(spec: PoolSpec) -> pool_pb2.PoolSpec:
    """The message that asks for `spec`."""
    message = pool_pb2.PoolSpec(spatial_dims=spec.spatial_dims)
    parameters: Message = getattr(message, spec.operator)
    parameters.SetInParent()
    for field in fields(spec):
        value = getattr(spec, field.name)
        if isinstance(value, tuple):
            getattr(parameters, field.name).extend(_KEEP if size is None else size for size in value)
        elif value is not None:
            setattr(parameters, field.name, value)
    return message


def from_message(message: pool_pb2.PoolSpec) -> PoolSpec:
    """The spec that a message asks for.

    Raises:
        InvalidRequest: no such operator, a parameter is missing, out of its range or not one of the operator's.
    """
    operator = message.WhichOneof("operator")
    if operator is None:
        raise InvalidRequest(f"is required: one of {', '.join(OPERATORS)}", field="operator")
    layer = LAYERS.get((operator, message.spatial_dims))
    if layer is None:
        raise InvalidRequest(
            f"must be 1, 2 or 3, the number of dimensions to pool; got {message.spatial_dims}", field="spatial_dims"
        )
    try:
        return layer(**_parameters(getattr(message, operator), layer))
    except InvalidRequest as error:
        raise error.within(operator) from None


def _parameters(message: Message, layer: type[PoolSpec]) -> dict[str, Any]:
    known = {field.name: field for field in fields(layer)}
    given: dict[str, Any] = {}
    for descriptor in message.DESCRIPTOR.fields:
        name = descriptor.name
        value = getattr(message, name)
        # What has no presence is either empty or not there, and so is a scalar that is 0.
        present = message.HasField(name) if descriptor.has_presence else bool(value)
        if name not in known:
            if present:
                raise InvalidRequest(f"is not a parameter of {layer.__name__}; leave it out", field=name)
        elif not present:
            if known[name].default is MISSING:
                raise InvalidRequest("is required", field=name)
        elif name == "output_size":
            given[name] = tuple(None if size == _KEEP else size for size in value)
        else:
            given[name] = value if isinstance(value, int | float) else tuple(value)
    return given
