"""The normalization of samples, in the order of torchvision's operations."""

import numpy as np

from poolservice_server.backbones.manifest import Preprocessing


def normalized(samples: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Return the values that the network takes: (value * scale - mean) / std.

    Each operation rounds to float32, as in torchvision, timm and Hugging Face. For a scale of 1/255, 1/256, 1/127.5 or
    1, the bits are equal to theirs. For other scales, value * scale may differ by one unit in the last place.

    Args:
        samples: (N, C, H, W): uint8, or float32, which is normalized already.
        preprocessing: how an image becomes an input.

    Returns:
        float32 (N, C, H, W); `samples` themselves if they are float32.
    """
    if samples.dtype == np.float32:
        return samples
    # Division by 255 is rounded correctly. Multiplication by a rounded 1/255 is not.
    values: np.ndarray = np.divide(samples, np.float32(1 / preprocessing.scale), dtype=np.float32)
    values -= _channels(preprocessing.mean)
    values /= _channels(preprocessing.std)
    return values


def _channels(values: tuple[float, ...]) -> np.ndarray:
    """Return float32 (C, 1, 1), or (1, 1, 1) for a value that all channels share."""
    return np.array(values, np.float32).reshape(-1, 1, 1)
