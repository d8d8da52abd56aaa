"""Received bytes as torch's tensors, over the same memory."""

import warnings

import numpy as np
import torch

# They must not be written to, and nothing here does. torch warns of that once in a process: here.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch.from_numpy(np.frombuffer(bytes(1), np.uint8))


def tensor(array: np.ndarray) -> torch.Tensor:
    """The array, which may be read-only, as a tensor."""
    return torch.from_numpy(array)
