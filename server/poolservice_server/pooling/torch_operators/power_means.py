"""Power means and norms, as sums of x^p while those stay in range, else as sums of exp(p * log(x))."""

from typing import Any

import torch

from poolservice_server.pooling.torch_operators.channel_parameters import with_numbers
from poolservice_server.pooling.torch_operators.exponential_sums import PerPlane, exponential_sums
from poolservice_server.pooling.torch_operators.windows import Windows

# Between these, a sum of powers has lost no term to underflow that matters, and no term has overflowed.
_SUMS_IN_RANGE = {torch.float32: (1e-30, 1e38), torch.float64: (1e-290, 1e308)}


def gem_pool(values: torch.Tensor, spec: Any) -> torch.Tensor:
    """Generalized mean of each window: y = (mean of max(x, eps)^p)^(1 / p).

    Source:
        Radenović, Tolias and Chum, "Fine-tuning CNN Image Retrieval with No Human Annotation", 2018.
    """
    return with_numbers(values.clamp(min=spec.eps), spec.p, lambda planes, p: _power_mean(planes, spec, p))


def ggem_pool(values: torch.Tensor, spec: Any) -> torch.Tensor:
    """Generalized mean of each window, with a p for each group of channels.

    Source:
        Ko et al., "Group Generalized Mean Pooling for Vision Transformer", 2022.
    """
    return gem_pool(values, spec)


def power_avg_pool(values: torch.Tensor, spec: Any) -> torch.Tensor:
    """Power mean of the magnitudes in each window: y = (mean of |x|^p)^(1 / p).

    Source:
        Estrach, Szlam and LeCun, "Signal Recovery from Pooling Representations", 2014.
    """
    return with_numbers(values.abs(), spec.p, lambda planes, p: _power_mean(planes, spec, p))


def norm(planes: torch.Tensor, spec: Any) -> torch.Tensor:
    """Norm of each window: y = (sum of |x|^p)^(1 / p), or the maximum of |x| if p is infinite."""
    magnitudes, p = planes.abs(), spec.norm_type
    windows = Windows(magnitudes, spec)
    return windows.max() if p == torch.inf else _root_of_sum(windows, magnitudes, p, 1)


def _power_mean(planes: torch.Tensor, spec: Any, p: PerPlane) -> torch.Tensor:
    windows = Windows(planes, spec)
    return _root_of_sum(windows, planes, p, windows.divisor)


def _root_of_sum(windows: Windows, planes: torch.Tensor, p: PerPlane, divisor: torch.Tensor | int) -> torch.Tensor:
    """Return (sum of x^p / divisor)^(1 / p) for each window of planes without negative values."""
    total = windows.total(planes.pow(p))
    lowest, highest = torch.aminmax(total)
    low, high = _SUMS_IN_RANGE[planes.dtype]
    if lowest.item() >= low and highest.item() <= high:
        return total.div_(divisor).pow_(1 / p)
    # The logarithms' order is that of the powers, and the largest one of a window is subtracted from the others.
    sign = 1.0 if isinstance(p, torch.Tensor) or p > 0 else -1.0
    maximum, (weights,) = exponential_sums(windows, planes.log().mul_(sign), p * sign)
    logarithm = weights.div_(divisor).log_().div_(p * sign).add_(maximum)
    return logarithm.mul_(sign).exp_()
