"""Means and logarithms of means of exponentials of the values in each window."""

from typing import Any

import torch

from poolservice_server.pooling.torch_operators.channel_parameters import with_numbers
from poolservice_server.pooling.torch_operators.exponential_sums import PerPlane, exponential_sums, is_within
from poolservice_server.pooling.torch_operators.windows import Windows

# Between these, a sum of exponentials has lost no term to underflow that matters, and no term has overflowed.
_SUMS_IN_RANGE = {torch.float32: (1e-30, 1e30), torch.float64: (1e-290, 1e290)}
_LEAST_FACTOR = 1e-37


def soft_pool(planes: torch.Tensor, spec: Any) -> torch.Tensor:
    """Mean of each window, weighted by the softmax of its values: y = (sum of x * exp(x)) / (sum of exp(x)).

    Source:
        Stergiou, Poppe and Kalliatakis, "Refining activation downsampling with SoftPool", 2021.
    """
    return _softmax_mean(planes, spec, 1.0)


def em_pool(planes: torch.Tensor, spec: Any) -> torch.Tensor:
    """Exponential maximum of each window: the mean weighted by the softmax of its values.

    Source:
        Stergiou and Poppe, "AdaPool: Exponential Adaptive Pooling for Information-Retaining Downsampling", 2021.
    """
    return _softmax_mean(planes, spec, 1.0)


def alpha_softmax_pool(values: torch.Tensor, spec: Any) -> torch.Tensor:
    """Mean of each window, weighted by a softmax: y = (sum of x * exp(alpha * x)) / (sum of exp(alpha * x)).

    Source:
        McFee, Salamon and Bello, "Adaptive Pooling Operators for Weakly Labeled Sound Event Detection", 2018.
    """
    return with_numbers(values, spec.alpha, lambda planes, alpha: _softmax_mean(planes, spec, alpha))


def lse_pool(values: torch.Tensor, spec: Any) -> torch.Tensor:
    """Logarithm of the mean of exponentials of each window: y = log(mean of exp(r * x)) / r.

    Source:
        Pinheiro and Collobert, "From Image-level to Pixel-level Labeling with Convolutional Networks", 2015.
    """
    return with_numbers(values, spec.r, lambda planes, r: _log_of_mean(planes, spec, r))


def lse_plus(values: torch.Tensor, spec: Any) -> torch.Tensor:
    """Logarithm of the mean of exponentials of each window: y = m + log(mean of exp(r * (x - m))) / r, m the maximum.

    Source:
        timm.layers.LsePlus2d.
    """
    return lse_pool(values, spec)


def _softmax_mean(planes: torch.Tensor, spec: Any, alpha: PerPlane) -> torch.Tensor:
    windows = Windows(planes, spec)
    exponentials = (planes * alpha).exp_()
    weights = windows.total(exponentials)
    if is_within(weights, *_SUMS_IN_RANGE[planes.dtype]):
        sums = windows.total(exponentials.mul_(planes))
        if bool(sums.isfinite().all()):
            return sums.div_(weights)
    # With a factor of 0, the exponentials of padding would not be 0.
    if isinstance(alpha, torch.Tensor):
        keys = torch.where(alpha < 0, -planes, planes)
        factor: PerPlane = alpha.abs().clamp_(min=_LEAST_FACTOR)
    else:
        keys = -planes if alpha < 0 else planes
        factor = max(abs(alpha), _LEAST_FACTOR)
    _, (weights, sums) = exponential_sums(windows, keys, factor, planes / windows.scale)
    return sums.div_(weights).mul_(windows.scale)


def _log_of_mean(planes: torch.Tensor, spec: Any, r: PerPlane) -> torch.Tensor:
    windows = Windows(planes, spec)
    # exp(r * x) - 1 keeps the digits of small values, for which exp(r * x) is close to 1.
    means = windows.total((planes * r).expm1_()).div_(windows.divisor)
    low, high = -0.9, _SUMS_IN_RANGE[planes.dtype][1]
    inside = (means >= low) & (means <= high)
    logarithms = means.log1p_().div_(r)
    if bool(inside.all()):
        return logarithms
    maximum, (weights,) = exponential_sums(windows, planes, r)
    return torch.where(inside, logarithms, weights.div_(windows.divisor).log_().div_(r).add_(maximum))
