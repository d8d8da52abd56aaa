"""An array as a tensor and a tensor as an array, over the same memory."""

import warnings

import ml_dtypes
import numpy as np
import torch

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

#: The types that numpy computes with slowly, or not at all.
HALVES = (np.dtype(np.float16), _BFLOAT16)

# Payloads are views of received bytes, which must not be written to, and nothing here does. torch warns of that once
# in a process: here.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch.from_numpy(np.frombuffer(bytes(1), np.uint8))


def to_tensor(array: np.ndarray) -> torch.Tensor:
    """The array as a tensor over the same memory; only negative strides, which torch lacks, are copied away."""
    if not array.flags.c_contiguous and min(array.strides) < 0:
        array = array.copy()
    if array.dtype == _BFLOAT16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def to_array(tensor: torch.Tensor) -> np.ndarray:
    """The tensor, which is in the CPU's memory, as an array over the same memory."""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(_BFLOAT16)
    return tensor.numpy()


def widened(halves: np.ndarray) -> np.ndarray:
    """Halves as float32, which holds them."""
    return to_tensor(halves).to(torch.float32).numpy()


def narrowed(floats: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """float32 rounded to one of `HALVES`."""
    return to_array(torch.from_numpy(floats).to(torch.bfloat16 if dtype == _BFLOAT16 else torch.float16))
