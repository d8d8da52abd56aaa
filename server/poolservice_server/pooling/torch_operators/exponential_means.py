"""Means that weight the values of a window exponentially."""

from typing import Any

import torch

from poolservice_server.pooling.torch_operators.windows import Windows


def soft_pool(planes: torch.Tensor, spec: Any) -> torch.Tensor:
    """Mean of each window, weighted by the softmax of its values: y = (sum of x * exp(x - m)) / (sum of exp(x - m)).

    m is the maximum of the window.

    Source:
        Stergiou, Poppe and Kalliatakis, "Refining activation downsampling with SoftPool", 2021.
    """
    windows = Windows(planes, spec)
    maximum = windows.max()
    weight = windows.sum(lambda x, m: torch.exp(x - m), maximum)
    return windows.sum(lambda x, m: x * torch.exp(x - m), maximum) / weight
