"""The element types of tensors: their DataType on the wire and their dtype in numpy."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeAlias

import ml_dtypes
import numpy as np

from poolservice.errors import InvalidRequest
from poolservice.v1 import pool_pb2

#: A DataType of the proto.
WireDtype: TypeAlias = pool_pb2.DataType.ValueType

#: The numpy dtype of each DataType, little-endian as on the wire.
NUMPY_DTYPES: Mapping[WireDtype, np.dtype] = MappingProxyType(
    {
        pool_pb2.DATA_TYPE_FLOAT32: np.dtype("<f4"),
        pool_pb2.DATA_TYPE_FLOAT64: np.dtype("<f8"),
        pool_pb2.DATA_TYPE_FLOAT16: np.dtype("<f2"),
        pool_pb2.DATA_TYPE_BFLOAT16: np.dtype(ml_dtypes.bfloat16),
        pool_pb2.DATA_TYPE_UINT8: np.dtype("u1"),
        pool_pb2.DATA_TYPE_UINT16: np.dtype("<u2"),
        pool_pb2.DATA_TYPE_INT8: np.dtype("i1"),
        pool_pb2.DATA_TYPE_INT16: np.dtype("<i2"),
        pool_pb2.DATA_TYPE_INT32: np.dtype("<i4"),
        pool_pb2.DATA_TYPE_INT64: np.dtype("<i8"),
    }
)

DTYPE_NAMES: tuple[str, ...] = tuple(dtype.name for dtype in NUMPY_DTYPES.values())

# Advice for the most common dtypes that cannot be pooled, by numpy's name or by numpy's letter for the kind.
_HINTS: Mapping[str, str] = MappingProxyType(
    {
        "bool": "a mask can be sent as uint8",
        "uint32": "int64 holds all its values",
        "uint64": "int64 holds its values below 2**63",
        "c": "its real and imaginary parts can be pooled separately",
        "U": "these are strings, not numbers",
        "S": "these are strings, not numbers",
        "O": "these are Python objects, not numbers",
    }
)

_WIRE_DTYPES = {dtype: wire for wire, dtype in NUMPY_DTYPES.items()}


def numpy_dtype(wire: WireDtype, *, field: str = "dtype") -> np.dtype:
    """Return the numpy dtype of a DataType.

    Raises:
        InvalidRequest: `wire` is not a valid DataType of a tensor; the error names `field`.
    """
    try:
        return NUMPY_DTYPES[wire]
    except KeyError:
        known = ", ".join(pool_pb2.DataType.Name(value) for value in NUMPY_DTYPES)
        raise InvalidRequest(
            f"{_wire_name(wire)} is not a type that a tensor can have; choose one of {known}", field=field
        ) from None


def wire_dtype(dtype: np.dtype, *, field: str = "dtype") -> WireDtype:
    """Return the DataType of a numpy dtype of either byte order.

    Raises:
        InvalidRequest: tensors of this dtype cannot be pooled (bool, complex, strings, objects, ...); the error names
            `field`.
    """
    try:
        return _WIRE_DTYPES[dtype.newbyteorder("<")]
    except KeyError:
        hint = _HINTS.get(dtype.name) or _HINTS.get(dtype.kind)
        raise InvalidRequest(
            f"{dtype.name} cannot be pooled; convert to one of {', '.join(DTYPE_NAMES)}{f'; {hint}' if hint else ''}",
            field=field,
        ) from None


def _wire_name(wire: WireDtype) -> str:
    return pool_pb2.DataType.Name(wire) if wire in pool_pb2.DataType.values() else f"DataType {wire}"
