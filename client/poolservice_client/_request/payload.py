"""Payloads: the bytes sent for a caller's input, either a row-major tensor or an encoded image."""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from poolservice.codec import Buffer
from poolservice.dtypes import NUMPY_DTYPES, wire_dtype
from poolservice.errors import InvalidRequest
from poolservice_client._request import files, interop

if TYPE_CHECKING:
    import PIL.Image

# Native dtypes that are sent without conversion.
_WIRE_DTYPES = frozenset(NUMPY_DTYPES.values())


class _Array(Protocol):
    def __array__(self) -> NDArray[Any]: ...


class _DLPack(Protocol):
    def __dlpack__(self) -> Any: ...


#: The inputs that can be pooled. Images: a path, the bytes of an encoded file, a PIL image. Tensors: a numpy array, the
#: path of an .npy file, a torch tensor, an object with __dlpack__ or __array__, nested lists of numbers.
Poolable: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | PIL.Image.Image | NDArray[Any] | _Array | _DLPack"
    " | Sequence[Any]"
)


class TensorPayload(NamedTuple):
    """A tensor: row-major and little-endian."""

    array: NDArray[Any]

    @property
    def nbytes(self) -> int:
        """The number of bytes of `data`."""
        return self.array.nbytes

    @property
    def data(self) -> memoryview:
        """The bytes of the elements, not copied."""
        if self.array.dtype.isbuiltin == 1:
            return self.array.data
        # bfloat16 exports no buffer, so its bytes are viewed as uint8.
        return self.array.reshape(-1).view(np.uint8).data


class ImagePayload(NamedTuple):
    """An image as an encoded file, in contiguous bytes."""

    data: Buffer

    @property
    def nbytes(self) -> int:
        """The number of bytes of `data`."""
        return len(self.data)


Payload = TensorPayload | ImagePayload


def make_payload(x: Any) -> Payload:
    """Return the payload that is sent for `x`.

    Raises:
        InvalidRequest: `x` is not something that can be pooled.
        OSError: `x` is a path that cannot be read.
    """
    if isinstance(x, np.ndarray):
        return TensorPayload(_to_wire_array(x))
    if isinstance(x, bytes | bytearray):
        return ImagePayload(x)
    if isinstance(x, memoryview):
        return ImagePayload(x.cast("B") if x.c_contiguous and x.nbytes else x.tobytes())
    if isinstance(x, str | os.PathLike):
        data = files.read(x)
        if files.is_numpy_file(data):
            return TensorPayload(_to_wire_array(files.load_array(data)))
        return ImagePayload(data)
    if is_pil_image(x):
        # Pillow is imported only for callers that already use it.
        from poolservice_client._request import pil_images

        return ImagePayload(pil_images.encode(x))
    if isinstance(x, list | tuple):
        return TensorPayload(_to_wire_array(_from_nested_lists(x)))
    return TensorPayload(_to_wire_array(interop.as_array(x)))


def is_slow(x: object) -> bool:
    """Return True if `make_payload` reads a file or encodes an image, which would block an event loop."""
    return not isinstance(x, np.ndarray) and (isinstance(x, str | os.PathLike) or is_pil_image(x))


def is_pil_image(x: object) -> bool:
    """Return True if `x` is a PIL image, without importing Pillow."""
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(x, pillow.Image)


def _to_wire_array(array: NDArray[Any]) -> NDArray[Any]:
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
    # The copy of a broadcast array, for example, may be much larger than the array.
    files.check_bytes(array.nbytes)
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))


def _from_nested_lists(x: Sequence[Any]) -> NDArray[Any]:
    if any(isinstance(one, str | bytes | bytearray | memoryview | os.PathLike) or is_pil_image(one) for one in x):
        raise InvalidRequest(
            f"pool takes one image at a time, and map takes many; got a {type(x).__name__} of {len(x)}", field="x"
        )
    try:
        return np.asarray(x)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InvalidRequest(f"this {type(x).__name__} makes no array: {error}", field="x") from None
