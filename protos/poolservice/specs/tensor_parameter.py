"""Tensors as parameters of specs: boxes, masks, lengths, indices, weights."""

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np

from poolservice.dtypes import NUMPY_DTYPES
from poolservice.errors import InvalidRequest
from poolservice.specs.validation import shown

#: The limit of a tensor that is a parameter, in bytes.
MAX_PARAMETER_BYTES = 8 * 2**20

_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)

# What arrays hold that are no parameters, by numpy's letter for the kind.
_REFUSED_KINDS: Mapping[str, str] = MappingProxyType(
    {"U": "strings", "S": "bytes", "O": "other Python objects", "c": "complex numbers"}
)

#: What a parameter that is a tensor may be given as: an array or tensor of any library, or nested lists of numbers.
TensorLike: TypeAlias = Any


class TensorParameter:
    """A tensor that is a parameter of a spec: immutable, and equal to another of the same dtype, shape and values.

    Attributes:
        array: the values, read-only, contiguous and little-endian.
        has_rows: True if there is a row for each sample. A single row stands for all samples, too.
    """

    __slots__ = ("_extremes", "_hash", "array", "has_rows")

    def __init__(self, array: "np.ndarray[Any, Any]", *, has_rows: bool = False) -> None:
        self.array = np.asarray(array, order="C")
        self.array.flags.writeable = False
        self.has_rows = has_rows
        self._hash: int | None = None
        self._extremes: tuple[Any, Any] | None = None

    @classmethod
    def of(
        cls,
        name: str,
        value: object,
        *,
        kind: str,
        shapes: str,
        dims: Collection[int] = (),
        dims_of_sample: int | None = None,
    ) -> "TensorParameter":
        """Return the parameter that was given as `value`.

        Args:
            name: the parameter's name, for errors.
            value: an array or tensor of any library, nested lists of numbers, or a TensorParameter.
            kind: "float", which converts integers, "integer", or "number", which is either.
            shapes: the possible shapes, for errors.
            dims: the possible numbers of dimensions.
            dims_of_sample: instead of `dims`, of a tensor that may have a row for each sample: the number of dimensions
                of a row.

        Raises:
            InvalidRequest: it has another kind, another number of dimensions, too many bytes, a NaN or an infinity, or
                for the kind "float" a number beyond the range of float32.
        """
        array = value.array if isinstance(value, TensorParameter) else _array(name, value)
        if array.dtype.kind in "iub" and kind == "float":
            array = array.astype(np.float32 if array.dtype.itemsize <= 2 else np.float64)
        elif array.dtype.kind == "b":
            array = array.astype(np.uint8)
        is_float = array.dtype.kind not in "iu"
        if kind != "number" and is_float != (kind == "float"):
            raise InvalidRequest(f"must have {kind}s; got an array of {array.dtype}", field=name)
        if array.nbytes > MAX_PARAMETER_BYTES:
            raise InvalidRequest(f"may have at most {MAX_PARAMETER_BYTES} bytes; got {array.nbytes}", field=name)
        possible = dims if dims_of_sample is None else (dims_of_sample, dims_of_sample + 1)
        if array.ndim not in possible:
            allowed = " or ".join(map(str, sorted(possible)))
            raise InvalidRequest(f"must have {allowed} dimensions, {shapes}; got shape {array.shape}", field=name)
        if is_float:
            _check_range(name, array, of_float32=kind == "float")
        has_rows = dims_of_sample is not None and array.ndim > dims_of_sample
        if has_rows and not array.size:
            raise InvalidRequest(f"must have values for each sample; got shape {array.shape}", field=name)
        if isinstance(value, TensorParameter) and array is value.array and has_rows == value.has_rows:
            return value
        return cls(array, has_rows=has_rows)

    @property
    def rows(self) -> int | None:
        """The number of samples that have a row each; None if the tensor is for any number of samples."""
        return len(self.array) if self.has_rows and len(self.array) != 1 else None

    def of_samples(self, samples: slice) -> "TensorParameter":
        """Return the rows of some of the samples; the same tensor if it is for any number of samples."""
        return self if self.rows is None else TensorParameter(self.array[samples], has_rows=True)

    @property
    def extremes(self) -> tuple[Any, Any]:
        """The lowest and the highest value; 0 and 0 without values."""
        if self._extremes is None:
            self._extremes = (self.array.min(), self.array.max()) if self.array.size else (0, 0)
        return self._extremes

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TensorParameter):
            return NotImplemented
        mine, others = self.array, other.array
        if mine is others:
            return True
        if mine.dtype != others.dtype or mine.shape != others.shape:
            return False
        # As bytes, because equal tensors must have equal hashes, and 0.0 equals -0.0.
        return bool((mine.reshape(-1).view(np.uint8) == others.reshape(-1).view(np.uint8)).all())

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash((self.array.dtype.str, self.array.shape, self.array.tobytes()))
        return self._hash

    def __repr__(self) -> str:
        """Return the values as nested lists if they are few, else the shape and the dtype."""
        if self.array.size <= 16:
            return repr(self.array.tolist())
        return f"<{self.array.dtype.name} {self.array.shape}>"

    def __reduce__(self) -> tuple[object, ...]:
        return _restored, (self.array, self.has_rows)


def _restored(array: "np.ndarray[Any, Any]", has_rows: bool) -> TensorParameter:
    return TensorParameter(array, has_rows=has_rows)


def _check_range(name: str, array: "np.ndarray[Any, Any]", *, of_float32: bool) -> None:
    """Check that no number of a floating-point array is NaN or infinite, or beyond the range of float32."""
    within = np.isfinite(array)
    if of_float32 and array.dtype == np.float64:
        within &= np.abs(array) <= _LARGEST_FLOAT32
    if not within.all():
        place = [int(index) for index in np.unravel_index(int(np.argmin(within)), array.shape)]
        number = float(array[tuple(place)])
        allowed = "be finite"
        if np.isfinite(number):
            allowed = f"be from -{_LARGEST_FLOAT32:.4g} to {_LARGEST_FLOAT32:.4g}, the range of float32"
        raise InvalidRequest(f"must {allowed}; it has {number} at {place}", field=name)


def _array(name: str, value: object) -> "np.ndarray[Any, Any]":
    if value is None or isinstance(value, str | bytes):
        raise InvalidRequest(f"must be an array, a tensor, or nested lists of numbers; got {shown(value)}", field=name)
    try:
        # Tensors of torch on a GPU or with gradients have `detach` and `cpu`; numpy calls `__array__` of the others.
        detached = value.detach().cpu() if hasattr(value, "detach") else value
        array = np.asarray(detached)
    except ValueError as error:
        if "inhomogeneous" in str(error):
            raise InvalidRequest("must be nested lists of the same length each; theirs differ", field=name) from None
        raise InvalidRequest(f"is not a tensor: {error}", field=name) from None
    except TypeError as error:
        raise InvalidRequest(f"is not a tensor: {error}", field=name) from None
    if array.dtype.kind == "b" or array.dtype.newbyteorder("<") in NUMPY_DTYPES.values():
        return np.array(array, array.dtype.newbyteorder("<"))
    got = _REFUSED_KINDS.get(array.dtype.kind, array.dtype.name)
    raise InvalidRequest(f"must have numbers of a type such as float32 or int64; got {got}", field=name)
