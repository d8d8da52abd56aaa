"""From whatever a user holds to what travels: a row-major tensor, or a picture as a file."""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from poolservice.dtypes import NUMPY_DTYPES, wire_dtype
from poolservice.errors import InvalidRequest
from poolservice_client._request import files, interop

if TYPE_CHECKING:
    import PIL.Image

Buffer = bytes | bytearray | memoryview


# As they are on the wire.
_WIRE_DTYPES = frozenset(NUMPY_DTYPES.values())


class _Array(Protocol):
    def __array__(self) -> NDArray[Any]: ...


class _DLPack(Protocol):
    def __dlpack__(self) -> Any: ...


#: What can be pooled. Pictures: a path, the bytes of an encoded file, a PIL image. Tensors: all else, that is numpy
#: arrays, the path of an .npy file, torch tensors, what speaks DLPack or numpy's __array__, nested lists of numbers.
Poolable: TypeAlias = (
    "str | os.PathLike[str] | Buffer | PIL.Image.Image | NDArray[Any] | _Array | _DLPack | Sequence[Any]"
)


class TensorPayload(NamedTuple):
    """A tensor: row-major, little-endian."""

    array: NDArray[Any]

    @property
    def nbytes(self) -> int:
        """How many bytes travel."""
        return self.array.nbytes

    @property
    def data(self) -> memoryview:
        """The elements' bytes, not copied."""
        if self.array.dtype.isbuiltin == 1:
            return self.array.data
        # Through uint8, since bfloat16 exports no buffer of its own.
        return self.array.reshape(-1).view(np.uint8).data


class ImagePayload(NamedTuple):
    """A picture as an encoded file, its bytes one after the other."""

    data: Buffer

    @property
    def nbytes(self) -> int:
        """How many bytes travel."""
        return len(self.data)


Payload = TensorPayload | ImagePayload


def payload(x: Any) -> Payload:
    """What travels for `x`.

    Raises:
        InvalidRequest: `x` is nothing that can be pooled.
        OSError: `x` is a path that cannot be read.
    """
    if isinstance(x, np.ndarray):
        return TensorPayload(_wire_array(x))
    if isinstance(x, bytes | bytearray):
        return ImagePayload(x)
    if isinstance(x, memoryview):
        return ImagePayload(x.cast("B") if x.c_contiguous and x.nbytes else x.tobytes())
    if isinstance(x, str | os.PathLike):
        data = files.read(x)
        return TensorPayload(_wire_array(files.array_of(data))) if files.is_array(data) else ImagePayload(data)
    if is_image(x):
        # Only who holds a PIL image pays for Pillow.
        from poolservice_client._request import image_files

        return ImagePayload(image_files.encode(x))
    if isinstance(x, list | tuple):
        return TensorPayload(_wire_array(_nested(x)))
    return TensorPayload(_wire_array(interop.as_array(x)))


def is_slow(x: object) -> bool:
    """Whether making the payload reads a file or encodes a picture: nothing to do on an event loop."""
    return not isinstance(x, np.ndarray) and (isinstance(x, str | os.PathLike) or is_image(x))


def is_image(x: object) -> bool:
    """Whether `x` is a PIL image, without importing Pillow."""
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(x, pillow.Image)


def _wire_array(array: NDArray[Any]) -> NDArray[Any]:
    if type(array) is np.ndarray and array.dtype in _WIRE_DTYPES and array.flags.c_contiguous and array.ndim:
        return array
    if array.ndim == 0:
        raise InvalidRequest(
            f"a scalar has nothing to pool; a tensor is (C, *) or (N, C, *); got {array.dtype.name} {array}",
            field="x.shape",
        )
    if isinstance(array, np.ma.MaskedArray):
        raise InvalidRequest("a masked array's mask would be lost; fill it first, with .filled(value)", field="x")
    wire_dtype(array.dtype, field="x.dtype")
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))


def _nested(x: Sequence[Any]) -> NDArray[Any]:
    if any(isinstance(one, str | bytes | bytearray | memoryview | os.PathLike) or is_image(one) for one in x):
        raise InvalidRequest(
            f"pool takes one picture at a time, and map takes many; got a {type(x).__name__} of {len(x)}", field="x"
        )
    try:
        return np.asarray(x)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InvalidRequest(f"this {type(x).__name__} makes no array: {error}", field="x") from None
