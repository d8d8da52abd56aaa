"""Weighted sums over all positions of each channel."""

import torch

from poolservice_server.kernel_thresholds import PRODUCT_MAX_ADDED


def weighted_sums(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the sum over the positions of aligned values (N, C, M) times their weights (N, M): (N, C)."""
    if values.shape[2] <= PRODUCT_MAX_ADDED:
        return (values @ weights.unsqueeze(2)).squeeze(2)
    parts = zip(values.split(PRODUCT_MAX_ADDED, 2), weights.unsqueeze(2).split(PRODUCT_MAX_ADDED, 1), strict=True)
    return torch.stack([(part @ weight).squeeze(2) for part, weight in parts]).sum(0)
