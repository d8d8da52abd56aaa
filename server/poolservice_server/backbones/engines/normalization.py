"""Normalization of samples in torch, on the device that holds them; on arrays, `preprocessing` does the same."""

import torch

from poolservice_server.backbones.manifest import Preprocessing


class Normalization:
    """The normalization of a backbone on one device.

    Args:
        preprocessing: how an image becomes an input.
        device: the device.
    """

    def __init__(self, preprocessing: Preprocessing, device: torch.device) -> None:
        self._white = torch.tensor(1 / preprocessing.scale, dtype=torch.float32)
        self._mean, self._std = (
            torch.tensor(channels, dtype=torch.float32, device=device).reshape(-1, 1, 1)
            for channels in (preprocessing.mean, preprocessing.std)
        )

    def apply(self, samples: torch.Tensor) -> torch.Tensor:
        """Return samples (N, C, H, W) as the network takes them; float32 samples are so already."""
        if samples.dtype == torch.float32:
            return samples
        # The operations and their order are those of `preprocessing.normalized`.
        return (samples / self._white).sub_(self._mean).div_(self._std)
