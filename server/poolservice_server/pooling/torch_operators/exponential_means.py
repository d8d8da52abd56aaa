"""Means and logarithms of means of exponentials of the values in each window."""

import math
from typing import Any

import torch

from poolservice_server.kernel_thresholds import SOFTMAX_MAX_ADDED
from poolservice_server.pooling.torch_operators.channel_parameters import with_numbers
from poolservice_server.pooling.torch_operators.exponential_sums import PerPlane, exponential_sums, largest_magnitude
from poolservice_server.pooling.torch_operators.windows import Windows

# Up to these magnitudes of exponents, and of values, no sum of exponentials overflows, and none underflows.
_LARGEST_EXPONENT = {torch.float32: 40.0, torch.float64: 400.0}
_LARGEST_VALUE = 1e9
# From this logarithm of a mean of exponentials on, its rounding errors are small enough.
_LEAST_LOGARITHM = 0.05
# With a factor of 0, the exponentials of padding would not be 0.
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
    largest = largest_magnitude(planes)
    if largest <= _LARGEST_VALUE and largest * _largest(alpha) <= _LARGEST_EXPONENT[planes.dtype]:
        if windows.is_plane and suits_softmax(planes, largest * _largest(alpha)):
            weights = _times(planes, alpha).flatten(1).softmax(1)
            return windows.total(weights.mul_(planes.flatten(1)))
        exponentials = _exponentials(planes, alpha)
        weights = windows.total(exponentials)
        return windows.total(exponentials.mul_(planes)).div_(weights)
    # With a factor of 0, all values have the same weight, however large they are.
    if isinstance(alpha, torch.Tensor):
        keys = torch.where(alpha == 0, 0.0, torch.where(alpha < 0, -planes, planes))
        factor: PerPlane = alpha.abs().clamp_(min=_LEAST_FACTOR)
    else:
        keys = torch.zeros_like(planes) if alpha == 0 else -planes if alpha < 0 else planes
        factor = max(abs(alpha), _LEAST_FACTOR)
    _, (weights, sums) = exponential_sums(windows, keys, factor, planes / windows.scale)
    return sums.div_(weights).mul_(windows.scale)


def _log_of_mean(planes: torch.Tensor, spec: Any, r: PerPlane) -> torch.Tensor:
    windows = Windows(planes, spec)
    flat = planes.flatten(1)
    # The largest magnitude of the exponents in each plane.
    magnitudes = torch.maximum(flat.amax(1), -flat.amin(1)) * (r if isinstance(r, float) else r.flatten())
    limit = _LARGEST_EXPONENT[planes.dtype]
    largest = magnitudes.max().item()
    if windows.is_plane and suits_softmax(planes, largest):
        # A plane of zeros has the result 0, without an error.
        logarithms = _log_of_softmax(_times(planes, r).flatten(1)).masked_fill_(magnitudes == 0, 0.0)
        if torch.where(magnitudes == 0, torch.inf, logarithms.abs()).min().item() >= _LEAST_LOGARITHM:
            return logarithms.view(-1, *(1,) * windows.dims).div_(r)
    elif torch.where(magnitudes == 0, torch.inf, magnitudes).min().item() >= _LEAST_LOGARITHM * windows.size:
        return _log_of_large_mean(windows, planes, r, moderate=largest <= limit)
    # exp(r * x) - 1 keeps the digits of small values, for which exp(r * x) is close to 1.
    moderate = largest <= limit
    exponents = _times(planes, r)
    minus_one = exponents.expm1() if moderate else exponents.clamp(-limit, limit).expm1_()
    means = windows.total(minus_one).div_(windows.divisor)
    lowest, highest = torch.aminmax(means)
    if lowest.item() >= -0.9 and highest.item() <= 10:
        return means.log1p_().div_(r)
    is_small = (means >= -0.9) & (means <= 10)
    logarithms = means.log1p_().div_(r)
    large = _log_of_large_mean(windows, planes, r, moderate=moderate)
    return torch.where(is_small, logarithms, large)


def _log_of_large_mean(windows: Windows, planes: torch.Tensor, r: PerPlane, *, moderate: bool) -> torch.Tensor:
    if moderate:
        return windows.total(_exponentials(planes, r)).div_(windows.divisor).log_().div_(r)
    maximum, (weights,) = exponential_sums(windows, planes, r)
    return weights.div_(windows.divisor).log_().div_(r).add_(maximum)


def suits_softmax(planes: torch.Tensor, largest: float) -> bool:
    """Return True if torch's softmax of planes is exact: no weight is below the least normal number.

    torch's softmax is faster than its exponential function. `largest` is the largest magnitude of the exponents.
    """
    count = planes[0].numel()
    spread = 2 * largest + math.log(count)
    return count <= SOFTMAX_MAX_ADDED and spread <= -math.log(torch.finfo(planes.dtype).tiny)


def _log_of_softmax(exponents: torch.Tensor) -> torch.Tensor:
    """Return the logarithm of the mean of the exponentials in each row, (P,)."""
    # The softmax of the first value is exp(x) / (sum of exp), and gives the sum.
    first = exponents.softmax(1)[:, 0].mul(exponents.shape[1]).log_()
    return first.neg_().add_(exponents[:, 0])


def _exponentials(planes: torch.Tensor, factor: PerPlane) -> torch.Tensor:
    if isinstance(factor, float) and factor == 1:
        return planes.exp()
    return (planes * factor).exp_()


def _times(planes: torch.Tensor, factor: PerPlane) -> torch.Tensor:
    return planes if isinstance(factor, float) and factor == 1 else planes * factor


def _largest(factor: PerPlane) -> float:
    """Return the largest magnitude of a factor."""
    return abs(factor) if isinstance(factor, float) else factor.abs().max().item()
