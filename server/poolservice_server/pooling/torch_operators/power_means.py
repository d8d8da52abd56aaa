"""Power means and norms, as sums of x^p while those stay in range, else as sums of exp(p * log(x))."""

from collections.abc import Callable
from typing import Any

import torch

from poolservice_server.pooling.torch_operators.channel_parameters import with_numbers
from poolservice_server.pooling.torch_operators.exponential_sums import PerPlane, exponential_sums
from poolservice_server.pooling.torch_operators.windows import Windows

#: Between these, a sum of powers has lost no term to underflow that matters, and no term has overflowed.
SUMS_IN_RANGE = {torch.float32: (1e-30, 1e38), torch.float64: (1e-290, 1e308)}
# Longer planes are squared and summed in two passes, because vector_norm adds so many values with too large an error.
_MAX_NORM_VALUES = 2**16
# From here on, a norm is the maximum of the magnitudes in every float type, and of a negative p the minimum.
_LARGEST_NORM = 1e38

#: Makes new planes without negative values.
_Magnitudes = Callable[[torch.Tensor], torch.Tensor]


def gem_pool(values: torch.Tensor, spec: Any) -> torch.Tensor:
    """Generalized mean of each window: y = (mean of max(x, eps)^p)^(1 / p).

    Source:
        Radenović, Tolias and Chum, "Fine-tuning CNN Image Retrieval with No Human Annotation", 2018.
    """
    return with_numbers(values, spec.p, lambda planes, p: _power_mean(planes, spec, p, lambda x: x.clamp(min=spec.eps)))


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
    return with_numbers(values, spec.p, lambda planes, p: _power_mean(planes, spec, p, torch.abs))


def norm(planes: torch.Tensor, spec: Any) -> torch.Tensor:
    """Norm of each window: y = (sum of |x|^p)^(1 / p), or the maximum or minimum of |x| if p or -p is very large."""
    if spec.norm_type > _LARGEST_NORM:
        return Windows(planes.abs(), spec).max()
    if spec.norm_type < -_LARGEST_NORM:
        return Windows(planes.abs(), spec).min()
    return _root_of_sum(Windows(planes, spec), planes, spec.norm_type, 1, torch.abs)


def _power_mean(planes: torch.Tensor, spec: Any, p: PerPlane, magnitudes: _Magnitudes) -> torch.Tensor:
    windows = Windows(planes, spec)
    return _root_of_sum(windows, planes, p, windows.divisor, magnitudes)


def _root_of_sum(
    windows: Windows, planes: torch.Tensor, p: PerPlane, divisor: torch.Tensor | int, magnitudes: _Magnitudes
) -> torch.Tensor:
    """Return (sum of magnitude^p / divisor)^(1 / p) for each window."""
    low, high = SUMS_IN_RANGE[planes.dtype]
    is_square = magnitudes is torch.abs and isinstance(p, float) and p == 2
    if is_square and windows.is_plane and planes[0].numel() <= _MAX_NORM_VALUES:
        norms: torch.Tensor = torch.linalg.vector_norm(planes.flatten(1), 2, 1)
        lowest, highest = torch.aminmax(norms)
        if lowest.item() >= low**0.5 and highest.item() <= high**0.5:
            return norms.div_(divisor**0.5).view(-1, *(1,) * windows.dims)
    else:
        total = windows.total(planes.square() if is_square else magnitudes(planes).pow_(p))
        lowest, highest = torch.aminmax(total)
        if lowest.item() >= low and highest.item() <= high:
            return total.div_(divisor).pow_(1 / p)
    # The logarithms' order is that of the powers, and the largest one of a window is subtracted from the others.
    sign = 1.0 if isinstance(p, torch.Tensor) or p > 0 else -1.0
    maximum, (weights,) = exponential_sums(windows, magnitudes(planes).log_().mul_(sign), p * sign)
    logarithm = weights.div_(divisor).log_().div_(p * sign).add_(maximum)
    return logarithm.mul_(sign).exp_()
