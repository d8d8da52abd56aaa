"""Operators that choose values, positions or windows at random; see `random_numbers` for what decides."""

import math
from collections.abc import Callable
from functools import reduce
from typing import Any

import torch

from poolservice_server.pooling.torch_operators.extremes import through_floats
from poolservice_server.pooling.torch_operators.power_means import SUMS_IN_RANGE
from poolservice_server.pooling.torch_operators.random_numbers import hashed, uniform
from poolservice_server.pooling.torch_operators.window_pieces import WindowPieces, gathered, places
from poolservice_server.pooling.torch_operators.windows import Windows

# The weight of a window's largest value, as an integer. Sums of integers are exact, so all devices draw alike.
_LARGEST_WEIGHT = 2.0**32

# Windows of up to so many values are visited place by place; the values of larger ones are gathered.
_MAX_VISITS = 64

_FRACTIONAL: dict[int, Callable[..., tuple[torch.Tensor, torch.Tensor]]] = {
    2: torch._C._nn.fractional_max_pool2d,
    3: torch._C._nn.fractional_max_pool3d,
}


def stochastic_pool(values: torch.Tensor, spec: Any) -> torch.Tensor:
    """Mean of each window weighted by its values, or a value drawn with probabilities in proportion to the values.

    Source:
        Zeiler and Fergus, "Stochastic Pooling for Regularization of Deep Convolutional Neural Networks", 2013.
    """
    if spec.mode == "weighted":
        return _mean_weighted_by_values(values, spec)
    count, channels = values.shape[:2]
    windows = WindowPieces(values.flatten(0, 1).clamp(min=0), spec, 0.0)
    shape = (channels, *windows.out)
    positions = torch.arange(math.prod(shape), device=values.device).view(shape)
    numbers = uniform(spec.seed, positions, torch.float64)
    return windows.map(_drawn, numbers.repeat(count, *(1,) * len(windows.out))).view(count, *shape)


def s3_pool(samples: torch.Tensor, spec: Any) -> torch.Tensor:
    """Maximum of windows with stride 1, of which randomly chosen rows and columns remain.

    Source:
        Zhai et al., "S3Pool: Pooling with Stochastic Spatial Sampling", 2017.
    """
    values = samples
    for axis, (kernel, stride, grid) in enumerate(spec.axes):
        dim = axis + 2
        starts = _positions(spec.seed, axis, values.shape[dim], kernel, grid, grid // stride).to(samples.device)
        values = reduce(torch.maximum, (values.index_select(dim, starts + place) for place in range(kernel)))
    return values


def fractional_max_pool(samples: torch.Tensor, spec: Any) -> Any:
    """Maximum of windows at random distances, as torch.nn.FractionalMaxPool2d and 3d.

    Source:
        Graham, "Fractional Max-Pooling", 2014.
    """
    channels, *spatial = samples.shape[1:]
    if spec.random_samples is not None:
        numbers = torch.tensor(spec.random_samples.array, device=samples.device)
    else:
        positions = torch.arange(channels * spec.spatial_dims, device=samples.device)
        numbers = uniform(spec.seed, positions, torch.float32)
    numbers = numbers.view(-1, channels, spec.spatial_dims).expand(len(samples), -1, -1).contiguous()
    sizes = (list(spec.kernel_size), list(spec.output_in(spatial)))
    pool = _FRACTIONAL[spec.spatial_dims]
    values, indices = through_floats(samples, lambda floats: pool(floats, *sizes, numbers.to(floats.dtype)))
    return (values, indices) if spec.return_indices else values


def _mean_weighted_by_values(planes: torch.Tensor, spec: Any) -> torch.Tensor:
    """Return the sum of a^2 / sum of a over windows, where a are the values of planes, but 0 instead of negative ones.

    A window whose sum of squares would overflow or vanish is divided by its maximum first.
    """
    windows = Windows(planes, spec)
    weights = planes.clamp(min=0)
    total, squares = windows.total(weights), windows.total(weights.square_())
    lowest, highest = (extreme.item() for extreme in torch.aminmax(squares))
    low, high = SUMS_IN_RANGE[planes.dtype]
    if low <= lowest and highest <= high:
        return squares.div_(total)
    if highest <= high and bool(((squares >= low) | (total == 0)).all()):
        return squares.div_(_divisor(total))
    return WindowPieces(planes.clamp(min=0), spec, 0.0).map(_weighted_by_values)


def _weighted_by_values(view: torch.Tensor) -> torch.Tensor:
    """Return the sum of a^2 / sum of a over windows (p, *o, *kernel), whose values a are not negative."""
    first = (view.ndim + 1) // 2
    if view.shape[first:].numel() > _MAX_VISITS:
        values = gathered(view)
        maximum = values.amax(-1)
        ratios = values / _divisor(maximum).unsqueeze(-1)
        total, squares = ratios.sum(-1), ratios.square().sum(-1)
    else:
        visits = places(view)
        maximum = reduce(torch.maximum, visits)
        divisor = _divisor(maximum)
        total, squares = torch.zeros_like(divisor), torch.zeros_like(divisor)
        for visited in visits:
            ratio = visited / divisor
            total += ratio
            squares.addcmul_(ratio, ratio)
    mean = maximum * (squares / _divisor(total))
    return torch.where(maximum.isinf(), maximum, mean)


def _divisor(values: torch.Tensor) -> torch.Tensor:
    """Return the values, but 1 instead of 0."""
    return torch.where(values == 0, 1.0, values)


def _drawn(view: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """Return a value of each window (p, *o, *kernel): the first at which the sum of the weights exceeds a number."""
    values = gathered(view)
    maximum = values.amax(-1, keepdim=True)
    # Of a window of zeros, all count alike; of one with an infinity, all infinities.
    weights = torch.where(values == maximum, 1.0, values / maximum).mul_(_LARGEST_WEIGHT).long()
    sums = weights.cumsum(-1)
    place = (sums <= (numbers.unsqueeze(-1) * sums[..., -1:])).sum(-1, keepdim=True)
    drawn = values.gather(-1, place.clamp_(max=values.shape[-1] - 1))
    return torch.where(maximum.isnan(), maximum, drawn).squeeze(-1)


def _positions(seed: int, axis: int, size: int, kernel: int, grid: int, kept: int) -> torch.Tensor:
    """Return the positions of the maxima that S3Pool keeps along a dimension, in ascending order."""
    cells, count = size // grid, size - kernel + 1
    starts = torch.arange(cells).unsqueeze(1) * grid
    # The last cell extends to the end, and may have more or fewer positions than the others.
    widths = torch.full_like(starts, grid)
    widths[-1] = count - starts[-1]
    offsets = torch.arange(int(widths.max()))
    keys = hashed(seed, starts + offsets, axis) >> 1
    keys = torch.where(offsets < widths, keys, torch.iinfo(torch.int64).max)
    chosen = keys.argsort(dim=1, stable=True)[:, :kept].sort(1).values
    return (starts + chosen).flatten()
