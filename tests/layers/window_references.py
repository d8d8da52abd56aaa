"""References of the layers that pool windows, in numpy and float64: see `float64_references`."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from poolservice_server.operator_shapes import window_grid

#: Returns the result of a sample (C, *) of float64.
Reference = Callable[[Any, Any], Any]


def windows_of(spec: Any, x: Any) -> tuple[Any, Any]:
    """Return the values of each window, (C, *out, K), and which of its places lie in the plane, (1, *out, K)."""
    kernel, stride, padding, _, _ = spec.window_in(x.shape[1:])
    out = window_grid(spec.window_in(x.shape[1:]), x.shape[1:])
    sides, steps = [(0, 0)], [slice(None)]
    for size, k, s, p, o in zip(x.shape[1:], kernel, stride, padding, out, strict=True):
        sides.append((p, max(0, (o - 1) * s + k - p - size)))
        steps.append(slice(0, (o - 1) * s + 1, s))
    axes = tuple(range(1, x.ndim))

    def laid_out(values: Any) -> Any:
        view = np.lib.stride_tricks.sliding_window_view(np.pad(values, sides), kernel, axes)[tuple(steps)]
        return view.reshape(*view.shape[: x.ndim], -1)

    return laid_out(x), laid_out(np.ones((1, *x.shape[1:]))) > 0


def of_channels(numbers: Any, x: Any) -> Any:
    """Return a number, or one for each channel or group of channels as (C, 1, ...) for windows (C, *out, K)."""
    if not isinstance(numbers, tuple):
        return numbers
    return np.repeat(np.array(numbers), len(x) // len(numbers)).reshape(-1, *(1,) * x.ndim)


def total(values: Any, inside: Any) -> Any:
    return np.where(inside, values, 0.0).sum(-1)


def power_mean(x: Any, inside: Any, p: Any, weights: Any = 1.0) -> Any:
    """Return the power mean of values that are not negative, divided by the largest of each window."""
    counts = np.broadcast_to(inside * weights, x.shape)
    largest = np.where(counts > 0, x, 0.0).max(-1, keepdims=True)
    scale = np.where(largest > 0, largest, 1.0)
    with np.errstate(under="ignore", over="ignore", invalid="ignore"):
        powers = np.where(counts > 0, (x / scale) ** p, 0.0)
        mean = (counts * powers).sum(-1) / np.where(counts.sum(-1) > 0, counts.sum(-1), 1.0)
        p = p[..., 0] if isinstance(p, np.ndarray) else p
        return scale[..., 0] * mean ** (1 / p)


def softmax_mean(x: Any, inside: Any, alpha: Any) -> Any:
    exponents = np.where(inside, alpha * x, -np.inf)
    weights = np.exp(exponents - exponents.max(-1, keepdims=True))
    return total(x * weights, inside) / total(weights, inside)


def log_mean_exp(x: Any, inside: Any, r: Any) -> Any:
    maximum = np.where(inside, x, -np.inf).max(-1, keepdims=True)
    # The exponents may be so small that their exponentials are 1.
    mean = total(np.expm1(r * np.where(inside, x - maximum, 0.0)), inside) / inside.sum(-1)
    r = r[..., 0] if isinstance(r, np.ndarray) else r
    return maximum[..., 0] + np.log1p(mean) / r


def similarity_mean(x: Any, inside: Any) -> Any:
    mean = (total(x, inside) / inside.sum(-1))[..., None]
    scale = np.maximum(np.abs(x), np.abs(mean))
    scale[scale == 0] = 1.0
    a, b = x / scale, mean / scale
    weights = np.exp(2 * np.abs(a * b) / np.where((a == 0) & (b == 0), 1.0, a**2 + b**2))
    return total(x * weights, inside) / total(weights, inside)


def _gem(spec: Any, x: Any) -> Any:
    values, inside = windows_of(spec, x)
    return power_mean(np.maximum(values, spec.eps), inside, of_channels(spec.p, x))


def _power_avg(spec: Any, x: Any) -> Any:
    values, inside = windows_of(spec, x)
    return power_mean(np.abs(values), inside, of_channels(spec.p, x))


def _soft(spec: Any, x: Any) -> Any:
    return softmax_mean(*windows_of(spec, x), 1.0)


def _alpha_softmax(spec: Any, x: Any) -> Any:
    return softmax_mean(*windows_of(spec, x), of_channels(spec.alpha, x))


def _lse(spec: Any, x: Any) -> Any:
    return log_mean_exp(*windows_of(spec, x), of_channels(spec.r, x))


def _edscw(spec: Any, x: Any) -> Any:
    return similarity_mean(*windows_of(spec, x))


def _ada(spec: Any, x: Any) -> Any:
    beta = of_channels(spec.beta, x)
    beta = beta[..., 0] if isinstance(beta, np.ndarray) else beta
    if spec.beta_map is not None:
        beta = spec.beta_map.array.astype(np.float64)
    return beta * _edscw(spec, x) + (1 - beta) * _soft(spec, x)


def descending(spec: Any, x: Any) -> tuple[Any, Any]:
    """Return the sorted values of each window, the largest first and what lies outside last, and how many there are."""
    values, inside = windows_of(spec, x)
    lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    values = np.where(inside, values, lowest)
    return np.flip(np.sort(values, -1), -1), np.broadcast_to(inside.sum(-1), values.shape[:-1])


def _at_rank(values: Any, rank: Any) -> Any:
    return np.take_along_axis(values, np.asarray(rank)[..., None], -1)[..., 0]


def _median(spec: Any, x: Any) -> Any:
    values, counts = descending(spec, x)
    return _at_rank(values, counts // 2)


def _rank(spec: Any, x: Any) -> Any:
    values, counts = descending(spec, x)
    rank = np.minimum(spec.rank, counts)
    return _at_rank(values, rank - 1 if spec.largest else counts - rank)


def _mean_of_places(values: Any, first: Any, end: Any) -> Any:
    places = np.arange(values.shape[-1])
    chosen = (places >= first[..., None]) & (places < end[..., None])
    return np.where(chosen, values, 0.0).sum(-1) / (end - first)


def _top_k(spec: Any, x: Any) -> Any:
    values, counts = descending(spec, x)
    return _mean_of_places(values, np.zeros_like(counts), np.minimum(counts, spec.k))


def _trimmed(spec: Any, x: Any) -> Any:
    values, counts = descending(spec, x)
    cut = np.floor(spec.proportiontocut * counts).astype(int) if spec.cut is None else np.full_like(counts, spec.cut)
    cut = np.minimum(cut, (counts - 1) // 2)
    return _mean_of_places(values, cut, counts - cut)


def _ordinal(spec: Any, x: Any) -> Any:
    values, counts = descending(spec, x)
    weights = spec.weights.array.astype(np.float64)
    weights = weights.reshape(len(weights), *(1,) * (x.ndim - 1), -1) if weights.ndim == 2 else weights
    counted = (np.arange(values.shape[-1]) < counts[..., None]) & (weights != 0)
    return (np.where(counted, values, 0.0) * weights).sum(-1)


def _stochastic(spec: Any, x: Any) -> Any:
    values, inside = windows_of(spec, np.maximum(x, 0))
    values = np.where(inside, values, 0.0)
    largest = np.where(values.max(-1, keepdims=True) > 0, values.max(-1, keepdims=True), 1.0)
    shares = values / largest
    sums = shares.sum(-1)
    return largest[..., 0] * (shares**2).sum(-1) / np.where(sums > 0, sums, 1.0)


def _pool_former(spec: Any, x: Any) -> Any:
    values, inside = windows_of(spec, x)
    return total(values, inside) / inside.sum(-1) - x


def _gated(spec: Any, x: Any) -> Any:
    values, inside = windows_of(spec, x)
    weight = spec.weight.array.astype(np.float64)
    size = values.shape[-1]
    weight = weight.reshape(-1, *(1,) * (x.ndim - 1), size)
    logits = total(values * weight, inside)
    gate = np.where(logits >= 0, 1.0, np.exp(-np.abs(logits))) / (1 + np.exp(-np.abs(logits)))
    # Padding counts for the mean, but not what lies beyond it with ceil_mode.
    kernel, stride, padding, _, _ = spec.window
    divisor = np.ones(())
    for length, k, s, p, out in zip(x.shape[1:], kernel, stride, padding, values.shape[1:-1], strict=True):
        starts = np.arange(out) * s - p
        divisor = np.multiply.outer(divisor, np.minimum(starts + k, length + p) - starts)
    return gate * np.where(inside, values, -np.inf).max(-1) + (1 - gate) * total(values, inside) / divisor


def _masked(spec: Any, x: Any) -> tuple[Any, Any, Any]:
    values, inside = windows_of(spec, x)
    if spec.lengths is not None:
        mask = np.arange(x.shape[1]) < spec.lengths.array
    else:
        mask = spec.mask.array.astype(np.float64)
    weights, _ = windows_of(spec, mask.reshape(1, *x.shape[1:]).astype(np.float64))
    return values, inside, weights


def _masked_avg(spec: Any, x: Any) -> Any:
    values, inside, weights = _masked(spec, x)
    weight = total(weights, inside)
    return total(values * weights, inside) / np.where(weight > 0, weight, 1.0)


def _masked_max(spec: Any, x: Any) -> Any:
    values, inside, weights = _masked(spec, x)
    counted = inside & (weights > 0)
    return np.where(counted.any(-1), np.where(counted, values, -np.inf).max(-1), 0.0)


def _masked_gem(spec: Any, x: Any) -> Any:
    values, inside, weights = _masked(spec, x)
    return power_mean(np.maximum(values, spec.eps), inside, spec.p, weights)


#: By the operator.
OF_WINDOWS: Mapping[str, Reference] = MappingProxyType(
    {
        "soft_pool": _soft,
        "gem_pool": _gem,
        "ggem_pool": _gem,
        "power_avg_pool": _power_avg,
        "lse_pool": _lse,
        "lse_plus": _lse,
        "alpha_softmax_pool": _alpha_softmax,
        "em_pool": _soft,
        "edscw_pool": _edscw,
        "ada_pool": _ada,
        "median_pool": _median,
        "rank_pool": _rank,
        "top_k_avg_pool": _top_k,
        "trimmed_mean_pool": _trimmed,
        "ordinal_pool": _ordinal,
        "stochastic_pool": _stochastic,
        "pool_former_pool": _pool_former,
        "gated_max_avg_pool": _gated,
        "masked_avg_pool": _masked_avg,
        "masked_max_pool": _masked_max,
        "masked_gem_pool": _masked_gem,
    }
)
