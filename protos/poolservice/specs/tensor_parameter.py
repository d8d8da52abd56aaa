"""Tensors as parameters of specs: boxes, masks, lengths, indices, weights."""

from collections.abc import Collection
from typing import Any, TypeAlias

import numpy as np

from poolservice.dtypes import NUMPY_DTYPES
from poolservice.errors import InvalidRequest
from poolservice.specs.validation import shown

#: The limit of a tensor that is a parameter, in bytes.
MAX_PARAMETER_BYTES = 8 * 2**20

#: What a parameter that is a tensor may be given as: an array or tensor of any library, or nested lists of numbers.
TensorLike: TypeAlias = Any


class TensorParameter:
    """A tensor that is a parameter of a spec: immutable, and equal to another of the same dtype, shape and values.

    Attributes:
        array: the values, read-only, contiguous and little-endian.
    """

    __slots__ = ("_hash", "array")

    def __init__(self, array: "np.ndarray[Any, Any]") -> None:
        self.array = np.ascontiguousarray(array)
        self.array.flags.writeable = False
        self._hash = hash((self.array.dtype.str, self.array.shape, self.array.tobytes()))

    @classmethod
    def of(cls, name: str, value: object, *, kind: str, dims: Collection[int]) -> "TensorParameter":
        """Return the parameter that was given as `value`.

        Args:
            name: the parameter's name, for errors.
            value: an array or tensor of any library, nested lists of numbers, or a TensorParameter.
            kind: "float", which converts integers, or "integer".
            dims: the possible numbers of dimensions.

        Raises:
            InvalidRequest: it has another kind, another number of dimensions, too many bytes, or a NaN or an infinity.
        """
        array = value.array if isinstance(value, TensorParameter) else _array(name, value)
        if array.dtype.kind in "iub" and kind == "float":
            array = array.astype(np.float32 if array.dtype.itemsize <= 2 else np.float64)
        elif array.dtype.kind == "b":
            array = array.astype(np.uint8)
        is_float = array.dtype.kind not in "iu"
        if is_float != (kind == "float"):
            raise InvalidRequest(f"must have numbers of type {kind}; got {array.dtype}", field=name)
        if array.ndim not in dims:
            allowed = " or ".join(map(str, sorted(dims)))
            raise InvalidRequest(f"must have {allowed} dimensions; got shape {array.shape}", field=name)
        if array.nbytes > MAX_PARAMETER_BYTES:
            raise InvalidRequest(f"may have {MAX_PARAMETER_BYTES} bytes; got {array.nbytes}", field=name)
        if is_float and not np.isfinite(array).all():
            raise InvalidRequest("must be finite; it has NaN or infinity", field=name)
        return value if isinstance(value, TensorParameter) and array is value.array else cls(array)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TensorParameter):
            return NotImplemented
        mine, others = self.array, other.array
        return (
            self._hash == other._hash
            and mine.dtype == others.dtype
            and mine.shape == others.shape
            and mine.tobytes() == others.tobytes()
        )

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        """Return the values as nested lists if they are few, else the shape and the dtype."""
        if self.array.size <= 16:
            return repr(self.array.tolist())
        return f"<{self.array.dtype.name} {self.array.shape}>"

    def __reduce__(self) -> tuple[type["TensorParameter"], tuple["np.ndarray[Any, Any]"]]:
        return TensorParameter, (self.array,)


def _array(name: str, value: object) -> "np.ndarray[Any, Any]":
    if value is None or isinstance(value, str | bytes):
        raise InvalidRequest(f"must be a tensor, or nested lists of numbers; got {shown(value)}", field=name)
    try:
        # Tensors of torch on a GPU or with gradients have `detach` and `cpu`; numpy calls `__array__` of the others.
        detached = value.detach().cpu() if hasattr(value, "detach") else value
        array = np.asarray(detached)
    except (ValueError, TypeError) as error:
        raise InvalidRequest(f"is not a tensor: {error}", field=name) from None
    if array.dtype.kind == "b" or array.dtype.newbyteorder("<") in NUMPY_DTYPES.values():
        return np.array(array, array.dtype.newbyteorder("<"))
    raise InvalidRequest(f"must have numbers; got an array of {array.dtype}", field=name)
