"""Conversion between specs and PoolSpec messages, and the tables of all layers and operators."""

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields
from types import MappingProxyType
from typing import Any

import numpy as np
from google.protobuf.message import Message

from poolservice.dtypes import numpy_dtype, wire_dtype
from poolservice.errors import InvalidRequest
from poolservice.specs import layers
from poolservice.specs.base import PoolSpec
from poolservice.specs.tensor_parameter import MAX_PARAMETER_BYTES, TensorParameter
from poolservice.v1 import pool_pb2

#: Every layer, by the name of its operator's field in the PoolSpec message and its number of spatial dimensions.
LAYERS: Mapping[tuple[str, int], type[PoolSpec]] = MappingProxyType(
    {
        (layer.operator, layer.spatial_dims): layer
        for layer in map(vars(layers).get, layers.__all__)
        if isinstance(layer, type) and issubclass(layer, PoolSpec)
    }
)

#: The operators, in the order of the PoolSpec message.
OPERATORS: tuple[str, ...] = tuple(
    field.name for field in pool_pb2.PoolSpec.DESCRIPTOR.oneofs_by_name["operator"].fields
)

# The output size in a message that means None in a spec.
_KEEP_SIZE = -1

# No parameter has more.
_MAX_DIMENSIONS = 8


def to_message(spec: PoolSpec) -> pool_pb2.PoolSpec:
    """Return `spec` as a PoolSpec message."""
    message = pool_pb2.PoolSpec(spatial_dims=spec.spatial_dims)
    parameters: Message = getattr(message, spec.operator)
    parameters.SetInParent()
    for field in fields(spec):
        value = getattr(spec, field.name)
        if value is None:
            continue
        if isinstance(value, TensorParameter):
            array = value.array
            tensor = pool_pb2.Tensor(dtype=wire_dtype(array.dtype), shape=array.shape, data=array.tobytes())
            getattr(parameters, field.name).CopyFrom(tensor)
        elif isinstance(value, tuple):
            getattr(parameters, field.name).extend(map(_item_to_message, value))
        elif hasattr(getattr(parameters, field.name), "append"):
            # One number for all channels, where one for each is possible.
            getattr(parameters, field.name).append(value)
        else:
            setattr(parameters, field.name, value)
    return message


def _item_to_message(item: object) -> object:
    if isinstance(item, PoolSpec):
        return to_message(item)
    return _KEEP_SIZE if item is None else item


def from_message(message: pool_pb2.PoolSpec) -> PoolSpec:
    """Return the spec of a PoolSpec message.

    Raises:
        InvalidRequest: the operator is missing, or a parameter is missing, out of range or unknown to the layer. The
            error's `field` is the path within the message.
    """
    operator = message.WhichOneof("operator")
    if operator is None:
        raise InvalidRequest(
            f"is required: one of {', '.join(OPERATORS[:10])}, or another that GetServerInfo lists", field="operator"
        )
    layer = LAYERS.get((operator, message.spatial_dims))
    if layer is None:
        possible = [dims for name, dims in LAYERS if name == operator]
        raise InvalidRequest(
            f"must be {_listed(possible)}, the number of dimensions to pool; got {message.spatial_dims}",
            field="spatial_dims",
        )
    try:
        return layer(**_parameters(getattr(message, operator), layer))
    except InvalidRequest as error:
        raise error.within(operator) from None


def _listed(numbers: list[int]) -> str:
    *others, last = map(str, sorted(numbers))
    return f"{', '.join(others)} or {last}" if others else last


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
        else:
            parameters[name] = _value(name, value)
    return parameters


def _value(name: str, value: Any) -> object:
    """Return a field of a message as the constructor of a layer takes it."""
    if isinstance(value, int | float | str):
        return value
    if isinstance(value, pool_pb2.Tensor):
        return _tensor(name, value)
    if name == "output_size":
        return tuple(None if size == _KEEP_SIZE else size for size in value)
    if value and isinstance(value[0], pool_pb2.PoolSpec):
        return tuple(_layer(name, number, one) for number, one in enumerate(value))
    return tuple(value)


def _tensor(name: str, message: pool_pb2.Tensor) -> TensorParameter:
    dtype = numpy_dtype(message.dtype, field=f"{name}.dtype")
    shape = tuple(message.shape)
    if any(size < 0 for size in shape):
        raise InvalidRequest(f"must have no negative size; got {list(shape)}", field=f"{name}.shape")
    if len(shape) > _MAX_DIMENSIONS:
        raise InvalidRequest(f"must have at most {_MAX_DIMENSIONS} dimensions; got {len(shape)}", field=f"{name}.shape")
    # Without the empty dimensions, because numpy refuses such a shape even if it has no values.
    if math.prod(max(size, 1) for size in shape) > MAX_PARAMETER_BYTES:
        raise InvalidRequest(
            f"may have at most {MAX_PARAMETER_BYTES} bytes; got shape {list(shape)}", field=f"{name}.shape"
        )
    data = message.data
    nbytes = math.prod(shape) * dtype.itemsize
    if len(data) != nbytes:
        raise InvalidRequest(
            f"has {len(data)} bytes; shape {list(shape)} of {dtype.name} takes {nbytes}", field=f"{name}.data"
        )
    return TensorParameter(np.frombuffer(data, dtype).reshape(shape))


def _layer(name: str, number: int, message: pool_pb2.PoolSpec) -> PoolSpec:
    try:
        return from_message(message)
    except InvalidRequest as error:
        raise error.within(f"{name}[{number}]") from None
