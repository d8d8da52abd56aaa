"""Conversion between arrays and tensors over the same memory, bfloat16 included."""

import warnings

import ml_dtypes
import numpy as np
import torch

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

#: The dtypes that numpy computes with slowly, or not at all.
HALF_DTYPES = (np.dtype(np.float16), _BFLOAT16)

# Payloads are views of received bytes and therefore read-only; pooling never writes to its input. torch warns about
# read-only arrays once per process: trigger that warning here and suppress it.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch.from_numpy(np.frombuffer(bytes(1), np.uint8))


def to_tensor(array: np.ndarray) -> torch.Tensor:
    """Return the array as a tensor over the same memory; copy it only if it has negative strides, which torch lacks."""
    if not array.flags.c_contiguous and min(array.strides) < 0:
        array = array.copy()
    if array.dtype == _BFLOAT16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def to_array(tensor: torch.Tensor) -> np.ndarray:
    """Return the tensor, which must be in CPU memory, as an array over the same memory."""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(_BFLOAT16)
    return tensor.numpy()


def widen(halves: np.ndarray) -> np.ndarray:
    """Convert an array of one of `HALF_DTYPES` to float32, which holds all of its values."""
    return to_tensor(halves).to(torch.float32).numpy()


def narrow(floats: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Round float32 to one of `HALF_DTYPES`."""
    return to_array(torch.from_numpy(floats).to(torch.bfloat16 if dtype == _BFLOAT16 else torch.float16))
