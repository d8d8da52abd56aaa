"""Means that weight each value by its similarity to the mean of its window."""

from typing import Any

import torch

from poolservice_server.pooling.torch_operators.channel_parameters import with_numbers
from poolservice_server.pooling.torch_operators.exponential_means import em_pool
from poolservice_server.pooling.torch_operators.exponential_sums import PerPlane
from poolservice_server.pooling.torch_operators.windows import Windows


def edscw_pool(planes: torch.Tensor, spec: Any) -> torch.Tensor:
    """Mean of each window, weighted by the exponential of the similarity of each value x to the mean a of the window.

    y = (sum of x * exp(d)) / (sum of exp(d)), with the Dice-Sørensen coefficient d = 2 * |x * a| / (x^2 + a^2).

    Source:
        Stergiou and Poppe, "AdaPool: Exponential Adaptive Pooling for Information-Retaining Downsampling", 2021.
    """
    scale = Windows(planes, spec).scale
    # The coefficient does not change with a factor.
    scaled = planes / scale
    windows = Windows(scaled, spec)
    magnitude = windows.total(scaled).div_(windows.divisor).abs_()
    sums, weights = windows.sums(_similarity_weights, magnitude)
    return sums.div_(weights).mul_(scale)


def ada_pool(values: torch.Tensor, spec: Any) -> torch.Tensor:
    """Sum of edscw_pool and em_pool: y = beta * edscw + (1 - beta) * em.

    Source:
        Stergiou and Poppe, "AdaPool: Exponential Adaptive Pooling for Information-Retaining Downsampling", 2021.
    """
    if spec.beta_map is not None:
        beta = torch.tensor(spec.beta_map.array.astype("float64"), dtype=values.dtype, device=values.device)
        return _blend(values, spec, beta)
    return with_numbers(values, spec.beta, lambda planes, beta: _blend(planes, spec, beta))


def _blend(planes: torch.Tensor, spec: Any, beta: PerPlane) -> torch.Tensor:
    return edscw_pool(planes, spec).mul_(beta).add_(em_pool(planes, spec).mul_(1 - beta))


def _similarity_weights(values: torch.Tensor, magnitude: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weighted values and the weights, exp(d - 1), for windows with this magnitude of the mean."""
    # With the ratio t of the smaller magnitude to the larger one, d is 2 * t / (1 + t^2), where no square overflows.
    magnitudes = values.abs()
    larger = torch.maximum(magnitudes, magnitude).clamp_(min=torch.finfo(values.dtype).tiny)
    ratio = torch.minimum(magnitudes, magnitude).div_(larger)
    weights = (ratio * 2).div_(ratio.square_().add_(1)).sub_(1).exp_()
    return values * weights, weights
