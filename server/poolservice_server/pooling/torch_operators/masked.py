"""Operators that pool windows of which only some values count."""

import math
from typing import Any

import numpy as np
import torch

from poolservice_server.pooling.torch_operators.alignment import aligned
from poolservice_server.pooling.torch_operators.weighted_sums import weighted_sums
from poolservice_server.pooling.torch_operators.windows import Windows

# Within these limits, sums of powers of float32 are exact enough without dividing the values by the maximum first.
_LEAST_SUM, _LARGEST_SUM = 1e-30, 1e30


def masked_avg_pool(samples: torch.Tensor, spec: Any) -> torch.Tensor:
    """Mean of each window, weighted by a mask: y = (sum of w * x) / (sum of w)."""
    if spec.kernel_size is None:
        return _mean_of_planes(samples, spec)
    weights = _weights(samples, spec)
    windows = Windows(samples.flatten(0, 1), spec)
    weight = _window_sum(windows, weights)
    total = _window_sum(windows, samples * weights)
    if not math.isfinite(total.sum().item()) and not bool(torch.isfinite(total).all()):
        # A NaN or an infinity of weight 0 does not count.
        total = _window_sum(windows, torch.where(weights > 0, samples * weights, 0))
    return total.div_(weight.masked_fill_(weight == 0, torch.inf))


def masked_max_pool(samples: torch.Tensor, spec: Any) -> torch.Tensor:
    """Maximum of each window where a mask is above 0."""
    left_out = _weights(samples, spec) == 0
    if samples.is_floating_point():
        # Adding -inf takes a fraction of the time of masked_fill. Adding -0 changes no value, nor the sign of a zero.
        offsets = torch.full_like(left_out, -0.0, dtype=samples.dtype).masked_fill_(left_out, -torch.inf)
        maximum = _window_max(samples + offsets, spec)
    if not samples.is_floating_point() or math.isnan(maximum.sum().item()):
        # A NaN or an infinity that is left out does not count.
        maximum = _window_max(samples.masked_fill(left_out, lowest(samples.dtype)), spec)
    return maximum.masked_fill_(_window_max(left_out.logical_not().to(torch.float32), spec) == 0, 0)


def masked_gem_pool(samples: torch.Tensor, spec: Any) -> torch.Tensor:
    """Generalized mean of each window, weighted by a mask: y = ((sum of w * max(x, eps)^p) / (sum of w))^(1/p).

    If a sum could overflow or vanish, y = m * ((sum of (v / m)^p) / (sum of w))^(1/p), where v = w^(1/p) * max(x, eps)
    and m is the maximum of v in the window.

    Source:
        Radenovic, Tolias and Chum, "Fine-tuning CNN Image Retrieval with No Human Annotation", 2018.
    """
    powers = samples.clamp_min(spec.eps).pow_(spec.p)
    if spec.kernel_size is None:
        means = _sums_of_planes(powers, _shares(samples, spec))
        least, largest = (extreme.item() for extreme in torch.aminmax(means))
        if largest < _LARGEST_SUM and least > _LEAST_SUM:
            return means.pow_(1 / spec.p)
    weights = _weights(samples, spec)
    windows = Windows(samples.flatten(0, 1), spec)
    weight = _window_sum(windows, weights)
    total = _window_sum(windows, powers.mul_(weights))
    del powers
    least, largest = (extreme.item() for extreme in torch.aminmax(total))
    if largest < _LARGEST_SUM:
        if least > _LEAST_SUM:
            return total.div_(weight).pow_(1 / spec.p)
        if bool(((total > _LEAST_SUM) | ((weight == 0) & (total == 0))).all()):
            return total.div_(weight.masked_fill_(weight == 0, torch.inf)).pow_(1 / spec.p)
    values = samples.clamp_min(spec.eps).mul_(weights.pow(1 / spec.p)).masked_fill_(weights == 0, 0)
    windows = Windows(values.flatten(0, 1), spec)
    maximum = windows.max()
    divisor = torch.where(maximum > 0, maximum, 1)
    total = _of_samples(windows.sum(lambda v, m: (v / m).pow(spec.p), divisor), samples)
    mean = _of_samples(divisor, samples) * (total / weight).pow(1 / spec.p)
    mean = torch.where(_of_samples(maximum, samples).isinf(), torch.inf, mean)
    return torch.where(weight > 0, mean, 0)


def lowest(dtype: torch.dtype) -> float:
    """Return the lowest value of a dtype."""
    return -float("inf") if dtype.is_floating_point else torch.iinfo(dtype).min


def _weights(samples: torch.Tensor, spec: Any) -> torch.Tensor:
    """Return the weights, at most 1, of the positions of all samples or of each: (1 or N, 1, *spatial)."""
    return _for_samples(_rows_of_weights(samples, spec), samples)


def _shares(samples: torch.Tensor, spec: Any) -> torch.Tensor:
    """Return the weights divided by their sum, which is at least 1 unless all are 0: (1 or N, 1, *spatial)."""
    weights = _rows_of_weights(samples, spec)
    weights /= np.maximum(weights.sum(1, keepdims=True), 1)
    return _for_samples(weights, samples)


def _rows_of_weights(samples: torch.Tensor, spec: Any) -> np.ndarray:
    """Return the weights, at most 1, as a new float64 array (1 or N, positions)."""
    if spec.lengths is not None:
        lengths: np.ndarray = spec.lengths.array.reshape(-1, 1)
        return (np.arange(samples.shape[2]) < lengths).astype(np.float64)
    mask: np.ndarray = spec.mask.array.reshape(-1, math.prod(samples.shape[2:]))
    largest = mask.max(1, keepdims=True)
    weights: np.ndarray = mask / np.where(largest == 0, 1, largest)
    return weights


def _for_samples(rows: np.ndarray, samples: torch.Tensor) -> torch.Tensor:
    tensor = torch.from_numpy(rows.astype(np.float64 if samples.dtype == torch.float64 else np.float32))
    return tensor.to(samples.device).view(-1, 1, *samples.shape[2:])


def _window_sum(windows: Windows, values: torch.Tensor) -> torch.Tensor:
    """Return the sum over each window of values (1 or N, 1 or C, *spatial): (1 or N, 1 or C, *out)."""
    return _of_samples(windows.total(values.flatten(0, 1)), values)


def _mean_of_planes(samples: torch.Tensor, spec: Any) -> torch.Tensor:
    """Return the weighted mean of each plane, (N, C, 1, ...)."""
    shares = _shares(samples, spec)
    means = _sums_of_planes(aligned(samples), shares)
    if not math.isfinite(means.sum().item()) and not bool(torch.isfinite(means).all()):
        # A NaN or an infinity of weight 0 does not count.
        means = _sums_of_planes(samples.masked_fill(shares == 0, 0), shares)
    return means


def _sums_of_planes(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the sum of each plane of aligned values (N, C, *spatial) times their weights: (N, C, 1, ...)."""
    rows = weights.flatten(1).expand(len(values), -1)
    return weighted_sums(values.flatten(2), rows).view(*values.shape[:2], *(1,) * (values.ndim - 2))


def _window_max(values: torch.Tensor, spec: Any) -> torch.Tensor:
    """Return the maximum of each window, (N, C, *out)."""
    return _of_samples(Windows(values.flatten(0, 1), spec).max(), values)


def _of_samples(planes: torch.Tensor, samples: torch.Tensor) -> torch.Tensor:
    return planes.view(*samples.shape[:2], *planes.shape[1:])
