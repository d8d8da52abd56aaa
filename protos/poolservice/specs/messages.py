"""Conversion between specs and PoolSpec messages, and the tables of all layers and operators."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from types import MappingProxyType
from typing import Any

from google.protobuf.message import Message

from poolservice.errors import InvalidRequest
from poolservice.specs import (
    adaptive_avg_pool,
    adaptive_max_pool,
    avg_pool,
    global_pool,
    lp_pool,
    max_pool,
    min_pool,
    mixed_pool,
)
from poolservice.specs.base import PoolSpec
from poolservice.v1 import pool_pb2

_MODULES = (max_pool, min_pool, avg_pool, lp_pool, mixed_pool, adaptive_max_pool, adaptive_avg_pool, global_pool)

#: Every layer, by the name of its operator's field in the PoolSpec message and its number of spatial dimensions.
LAYERS: Mapping[tuple[str, int], type[PoolSpec]] = MappingProxyType(
    {
        (layer.operator, layer.spatial_dims): layer
        for module in _MODULES
        for layer in vars(module).values()
        if isinstance(layer, type) and issubclass(layer, PoolSpec) and hasattr(layer, "spatial_dims")
    }
)

#: The operators, in the order of the PoolSpec message.
OPERATORS: tuple[str, ...] = tuple(
    field.name for field in pool_pb2.PoolSpec.DESCRIPTOR.oneofs_by_name["operator"].fields
)

# The output size in a message that means None in a spec.
_KEEP_SIZE = -1


def to_message(spec: PoolSpec) -> pool_pb2.PoolSpec:
    """Return `spec` as a PoolSpec message."""
    message = pool_pb2.PoolSpec(spatial_dims=spec.spatial_dims)
    parameters: Message = getattr(message, spec.operator)
    parameters.SetInParent()
    for field in fields(spec):
        value = getattr(spec, field.name)
        if isinstance(value, tuple):
            getattr(parameters, field.name).extend(_KEEP_SIZE if size is None else size for size in value)
        elif value is not None:
            setattr(parameters, field.name, value)
    return message


def from_message(message: pool_pb2.PoolSpec) -> PoolSpec:
    """Return the spec of a PoolSpec message.

    Raises:
        InvalidRequest: the operator is missing, or a parameter is missing, out of range or unknown to the layer. The
            error's `field` is the path within the message.
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
    parameters: dict[str, Any] = {}
    for descriptor in message.DESCRIPTOR.fields:
        name = descriptor.name
        value = getattr(message, name)
        # A field without presence, such as a repeated field or a plain scalar, counts as set if it is not empty or 0.
        is_set = message.HasField(name) if descriptor.has_presence else bool(value)
        if name not in known:
            if is_set:
                raise InvalidRequest(f"is not a parameter of {layer.__name__}; leave it out", field=name)
        elif not is_set:
            if known[name].default is MISSING:
                raise InvalidRequest("is required", field=name)
        elif name == "output_size":
            parameters[name] = tuple(None if size == _KEEP_SIZE else size for size in value)
        else:
            parameters[name] = value if isinstance(value, int | float) else tuple(value)
    return parameters
