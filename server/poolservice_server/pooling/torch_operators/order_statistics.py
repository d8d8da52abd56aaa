"""Operators that sort the values of each window: median, ranks, means of ranks, weights by rank."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from poolservice_server.pooling.torch_operators.sorting_networks import values_of_ranks
from poolservice_server.pooling.torch_operators.window_pieces import WindowPieces, gathered, places

# A network sorts windows of at most so many values, if there are so many windows that its many calls pay off.
_MAX_NETWORK = 32
_MIN_NETWORK_WINDOWS = 2048
# From so many values on, selecting is faster than sorting. torch's topk is faster than both if it selects few of them.
_MIN_SELECTION = 512
_MIN_TOPK, _MIN_TOPK_RATIO = 128, 64

#: Returns the first and the last rank to average, from 0 for the smallest value, of a window of so many values.
_Ranks = Callable[[int], tuple[int, int]]


def median_pool(planes: torch.Tensor, spec: Any) -> torch.Tensor:
    """Median of each window, of an even number of values the lower of the two middle ones."""
    return _mean_of_ranks(planes, spec, lambda count: ((count - 1) // 2, (count - 1) // 2))


def rank_pool(planes: torch.Tensor, spec: Any) -> torch.Tensor:
    """Value of a rank in each window: the `rank`-th smallest or largest, or the last of fewer values."""

    def ranks(count: int) -> tuple[int, int]:
        rank = min(spec.rank, count)
        return (count - rank, count - rank) if spec.largest else (rank - 1, rank - 1)

    return _mean_of_ranks(planes, spec, ranks)


def top_k_avg_pool(planes: torch.Tensor, spec: Any) -> torch.Tensor:
    """Mean of the k largest values of each window, or of all if there are fewer.

    Source:
        Durand, Thome and Cord, "WELDON: Weakly Supervised Learning of Deep Convolutional Neural Networks", 2016.
    """
    return _mean_of_ranks(planes, spec, lambda count: (max(0, count - spec.k), count - 1))


def trimmed_mean_pool(planes: torch.Tensor, spec: Any) -> torch.Tensor:
    """Mean of each window without its g smallest and g largest values.

    Source:
        scipy.stats.trim_mean.
    """

    def ranks(count: int) -> tuple[int, int]:
        cut = int(spec.proportiontocut * count) if spec.cut is None else spec.cut
        cut = min(cut, (count - 1) // 2)
        return cut, count - 1 - cut

    return _mean_of_ranks(planes, spec, ranks)


def ordinal_pool(values: torch.Tensor, spec: Any) -> torch.Tensor:
    """Weighted sum of the values of each window in descending order: y = sum of w[r] * x[r].

    Source:
        Kumar, "Ordinal Pooling Networks: For Preserving Information over Shrinking Feature Maps", 2018.
    """
    planes = values.flatten(0, 1) if spec.takes_samples else values
    # Missing values are the smallest, so that the last weights belong to them.
    windows = WindowPieces(planes, spec, -math.inf)
    # Ascending, as the sorted values.
    array = np.flip(spec.weights.array, -1)
    ranks = np.flatnonzero(array.reshape(-1, windows.size).any(0)).tolist()
    weights = torch.tensor(array.copy(), dtype=planes.dtype, device=planes.device)
    if spec.takes_samples:
        weights = weights.repeat(len(values), 1)
    weights = weights.view(-1, *(1,) * len(windows.out), windows.size)
    items = (weights,) if windows.counts is None else (weights, windows.counts)
    # With one rank at least, so that NaN reaches the result.
    shared = None if spec.takes_samples else array.tolist()
    result = windows.map(partial(_weighted_sum, ranks=frozenset(ranks or [0]), shared=shared), *items)
    return result.view(*values.shape[: -len(windows.out)], *windows.out)


def _mean_of_ranks(planes: torch.Tensor, spec: Any, ranks: _Ranks) -> torch.Tensor:
    """Return the mean of the values of some ranks in each window; of a single rank the value itself."""
    floats = planes.is_floating_point()
    # Missing values are the largest, so that the ranks of the others count from the smallest.
    windows = WindowPieces(planes, spec, math.inf if floats else torch.iinfo(planes.dtype).max)
    bounds = {count: ranks(count) for count in windows.distinct_counts}
    items = () if windows.counts is None else (windows.counts,)
    return windows.map(partial(_mean_of_bounds, bounds=bounds), *items)


def _mean_of_bounds(
    view: torch.Tensor, counts: torch.Tensor | None = None, *, bounds: dict[int, tuple[int, int]]
) -> torch.Tensor:
    """Return the mean of the ranks of windows (p, *o, *kernel), by the number of values of a window."""
    if _suits_network(view):
        ranks = frozenset(rank for low, high in bounds.values() for rank in range(low, high + 1))
        ordered = values_of_ranks(places(view), ranks)
        means = {count: _mean(ordered[low : high + 1]) for count, (low, high) in bounds.items()}
        _, result = means.popitem()
        if counts is not None:
            for count, mean in means.items():
                result = torch.where(counts == count, mean, result)
        return result
    if counts is not None:
        return _mean_of_varied_bounds(_sorted(view), counts, bounds)
    ((low, high),) = bounds.values()
    values = gathered(view)
    size = values.shape[-1]
    if size >= _MIN_TOPK and high == size - 1 and (size - low) * _MIN_TOPK_RATIO <= size:
        # topk counts NaN as the largest value.
        return values.topk(size - low, -1, sorted=False).values.mean(-1)
    if size >= _MIN_SELECTION and values.is_cpu:
        selected = torch.from_numpy(np.partition(values.numpy(), sorted({low, high}), -1))
        return _with_nan(_mean_between(selected, low, high), values.amax(-1))
    values = _sorted(view)
    return _with_nan(_mean_between(values, low, high), values[..., -1])


def _mean_between(values: torch.Tensor, low: int, high: int) -> torch.Tensor:
    return values[..., low] if low == high else values[..., low : high + 1].mean(-1)


def _mean_of_varied_bounds(
    values: torch.Tensor, counts: torch.Tensor, bounds: dict[int, tuple[int, int]]
) -> torch.Tensor:
    numbers = torch.tensor(sorted(bounds), device=values.device)
    table = torch.tensor([bounds[count] for count in sorted(bounds)], device=values.device)
    low, high = table[torch.searchsorted(numbers, counts.contiguous())].unsqueeze(-2).unbind(-1)
    if all(first == last for first, last in bounds.values()):
        return _with_nan(values.gather(-1, low).squeeze(-1), values[..., -1])
    ranks = torch.arange(values.shape[-1], device=values.device)
    inside = torch.where((ranks >= low) & (ranks <= high), values, 0.0)
    return _with_nan(inside.sum(-1) / (high - low + 1).squeeze(-1), values[..., -1])


def _weighted_sum(
    view: torch.Tensor,
    weights: torch.Tensor,
    counts: torch.Tensor | None = None,
    *,
    ranks: frozenset[int],
    shared: list[float] | None,
) -> torch.Tensor:
    """Return the sum of the sorted values of windows (p, *o, *kernel) times weights.

    Args:
        view: the windows.
        weights: (p, *o, K), in the order of ascending values.
        counts: the number of values of each window; None if all are full. The first ranks of the others are missing.
        ranks: those that have weights, and one at least.
        shared: the weights, if they are the same for all windows.
    """
    size = weights.shape[-1]
    if not _suits_network(view):
        values = _sorted(view)
        counted = weights != 0
        if counts is not None:
            counted = counted & (torch.arange(size, device=view.device) >= size - counts.unsqueeze(-1))
        return _with_nan(torch.where(counted, values * weights, 0.0).sum(-1), values[..., -1])
    ordered = values_of_ranks(places(view), ranks)
    total = torch.zeros_like(ordered[min(ranks)])
    for rank in sorted(ranks):
        values = ordered[rank]
        if shared is not None and counts is None:
            if shared[rank]:
                total.add_(values, alpha=shared[rank])
            continue
        counted = weights[..., rank] != 0
        if counts is not None:
            counted = counted & (counts >= size - rank)
        total += torch.where(counted, values * weights[..., rank], 0.0)
    return _with_nan(total, ordered[min(ranks)])


def _suits_network(view: torch.Tensor) -> bool:
    dims = (view.ndim - 1) // 2
    windows, size = view.shape[: 1 + dims].numel(), view.shape[1 + dims :].numel()
    return size <= _MAX_NETWORK and windows >= _MIN_NETWORK_WINDOWS


def _sorted(view: torch.Tensor) -> torch.Tensor:
    """Return the values of each window in ascending order, NaN last."""
    values = gathered(view)
    if not values.is_cpu:
        return values.sort(-1).values
    # numpy sorts values of 32 and 64 bits with vector instructions, several times as fast as torch.
    if values.element_size() < 4:
        return torch.from_numpy(np.sort(values.numpy().astype(np.int32), -1)).to(values.dtype)
    return torch.from_numpy(np.sort(values.numpy(), -1))


def _mean(values: list[torch.Tensor]) -> torch.Tensor:
    if len(values) == 1:
        return values[0]
    total = values[0] + values[1]
    for value in values[2:]:
        total += value
    return total / len(values)


def _with_nan(results: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
    """Return the results, but NaN for windows whose largest value is NaN."""
    return results.masked_fill(largest.isnan(), math.nan) if largest.is_floating_point() else results
