"""Means that weight each value by its similarity to the mean of its window."""

from typing import Any

import torch

from poolservice_server.pooling.torch_operators.channel_parameters import with_numbers
from poolservice_server.pooling.torch_operators.exponential_means import em_pool, suits_softmax
from poolservice_server.pooling.torch_operators.exponential_sums import PerPlane, largest_magnitude
from poolservice_server.pooling.torch_operators.windows import Windows


def edscw_pool(planes: torch.Tensor, spec: Any) -> torch.Tensor:
    """Mean of each window, weighted by the exponential of the similarity of each value x to the mean a of the window.

    y = (sum of x * exp(d)) / (sum of exp(d)), with the Dice-Sørensen coefficient d = 2 * |x * a| / (x^2 + a^2).

    Source:
        Stergiou and Poppe, "AdaPool: Exponential Adaptive Pooling for Information-Retaining Downsampling", 2021.
    """
    # The coefficient does not change if all values are divided by the same number. Large values are divided by `scale`,
    # so that nothing below is close to overflow. Tiny values are not, because their means would lose digits.
    scale = 16 * Windows(planes, spec).scale
    scale = 1.0 if largest_magnitude(planes) <= torch.finfo(planes.dtype).max / scale else scale
    scaled = planes if scale == 1 else planes / scale
    windows = Windows(scaled, spec)
    mean = windows.total(scaled).div_(windows.divisor)
    half_inverse = mean.abs_().clamp_(min=torch.finfo(planes.dtype).tiny).reciprocal_().mul_(0.5)
    if windows.is_plane and suits_softmax(planes, 1.0):
        weights = _similarities(scaled, half_inverse).flatten(1).softmax(1)
        return windows.total(weights.mul_(scaled.flatten(1))).mul_(scale)
    sums, weights = windows.weighted_sums(_exponentials, half_inverse)
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


def _exponentials(values: torch.Tensor, half_inverse: torch.Tensor) -> torch.Tensor:
    """Return exp(d) for values of windows with this half of the inverse of |a|; 1 for a value of 0."""
    return _similarities(values, half_inverse).exp_()


def _similarities(values: torch.Tensor, half_inverse: torch.Tensor) -> torch.Tensor:
    """Return d for values of windows with this half of the inverse of |a|; 0 for a value of 0."""
    # With h = |x| / |a| / 2, d is 1 / (h + 0.25 / h), where no square overflows.
    half_ratio = values.abs().mul_(half_inverse)
    return half_ratio.add_(half_ratio.reciprocal(), alpha=0.25).reciprocal_()
