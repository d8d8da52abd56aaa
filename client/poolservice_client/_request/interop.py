"""Interop: arrays of other libraries as numpy arrays, without importing those libraries."""

import sys
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from poolservice.errors import InvalidRequest

# DLPack's numbers of the devices whose memory the CPU can read: kDLCPU, kDLCUDAHost, kDLROCMHost, kDLCUDAManaged.
_HOST_DEVICES = frozenset({1, 3, 11, 13})


def as_array(x: Any) -> NDArray[Any]:
    """Return `x` as a numpy array, sharing its memory if possible.

    Raises:
        InvalidRequest: `x` is not an array, or numpy cannot represent it.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(x, torch.Tensor):
        return _from_torch(x, torch)
    reasons = []
    # __array__ comes first: numpy's DLPack does not support bfloat16, while __array__ gives ml_dtypes' bfloat16.
    for protocol, read in (("__array__", np.asarray), ("__dlpack__", _from_dlpack)):
        if hasattr(x, protocol):
            try:
                return read(x)
            except (TypeError, ValueError, RuntimeError, BufferError) as error:
                reasons.append(f"{protocol}: {error}")
    if isinstance(x, int | float | complex):
        return np.asarray(x)
    type_name = f"{type(x).__module__}.{type(x).__qualname__}".removeprefix("builtins.")
    if reasons:
        raise InvalidRequest(f"{type_name} gives no array in CPU memory ({'; '.join(reasons)})", field="x")
    hint = "; to send an open file, pass its read()" if hasattr(x, "read") else ""
    raise InvalidRequest(
        f"{type_name} cannot be pooled; give a numpy array, a torch tensor, an object with __dlpack__ or __array__, a "
        f"path, an encoded image's bytes or a PIL image{hint}",
        field="x",
    )


def _from_dlpack(x: Any) -> NDArray[Any]:
    device = int(x.__dlpack_device__()[0]) if hasattr(x, "__dlpack_device__") else 1
    if device not in _HOST_DEVICES:
        raise BufferError(f"it is on another device (DLPack's number {device}); copy it to the CPU first")
    return np.from_dlpack(x)


def _from_torch(tensor: Any, torch: Any) -> NDArray[Any]:
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise InvalidRequest(
            f"a torch tensor must be dense to be pooled, not {tensor.layout}, nor quantised; use .to_dense() or "
            ".dequantize()",
            field="x",
        )
    if tensor.device.type == "meta":
        raise InvalidRequest("a tensor on torch's meta device has no elements", field="x")
    dense = tensor.detach().cpu().resolve_conj().resolve_neg()
    if dense.dtype == torch.bfloat16:
        # torch cannot convert bfloat16 to numpy, so its bits pass through int16.
        return np.asarray(dense.view(torch.int16).numpy()).view(ml_dtypes.bfloat16)
    try:
        return np.asarray(dense.numpy())
    except TypeError as error:
        raise InvalidRequest(f"{tensor.dtype} cannot be pooled: {error}", field="x.dtype") from None
