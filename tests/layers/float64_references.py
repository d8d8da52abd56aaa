"""A reference of each layer beyond the classic ones, in numpy and float64, by the formula in its docstring.

The references are fast enough for large planes: all values of each window are laid out side by side, and numpy reduces
them. They share no code with the server but the sizes of windows and CompactBilinearPool's random numbers. Layers that
draw values at random have none.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np
import torch
from tests.layers.head_folders import HEADS
from tests.layers.test_combinations import tiles
from tests.layers.test_descriptors import expected_scda, published_regions
from tests.layers.test_every_layer import HALVES, pooled
from tests.layers.test_filters import PASCAL, approximation, cropped
from tests.layers.test_regions_of_interest import boxes_reference
from tests.layers.test_second_order import covariances, newton_schulz, outer_products, upper_triangle

from poolservice_server.operator_shapes import output_shape, result_dtype, window_grid
from poolservice_server.pooling.torch_operators import random_numbers

Array = np.ndarray[Any, Any]
#: Returns the result of a sample (C, *) of float64.
Reference = Callable[[Any, Array], Array]


def windows_of(spec: Any, x: Array) -> tuple[Array, Array]:
    """Return the values of each window, (C, *out, K), and which of its places lie in the plane, (1, *out, K)."""
    kernel, stride, padding, _, _ = spec.window_in(x.shape[1:])
    out = window_grid(spec.window_in(x.shape[1:]), x.shape[1:])
    sides, steps = [(0, 0)], [slice(None)]
    for size, k, s, p, o in zip(x.shape[1:], kernel, stride, padding, out, strict=True):
        sides.append((p, max(0, (o - 1) * s + k - p - size)))
        steps.append(slice(0, (o - 1) * s + 1, s))
    axes = tuple(range(1, x.ndim))

    def laid_out(values: Array) -> Array:
        view = np.lib.stride_tricks.sliding_window_view(np.pad(values, sides), kernel, axes)[tuple(steps)]
        return view.reshape(*view.shape[: x.ndim], -1)

    return laid_out(x), laid_out(np.ones((1, *x.shape[1:]))) > 0


def of_channels(numbers: Any, x: Array) -> Any:
    """Return a number, or one for each channel or group of channels as (C, 1, ...) for windows (C, *out, K)."""
    if not isinstance(numbers, tuple):
        return numbers
    return np.repeat(np.array(numbers), len(x) // len(numbers)).reshape(-1, *(1,) * x.ndim)


def total(values: Array, inside: Array) -> Array:
    return np.where(inside, values, 0.0).sum(-1)


def power_mean(x: Array, inside: Array, p: Any, weights: Any = 1.0) -> Array:
    """Return the power mean of values that are not negative, divided by the largest of each window."""
    counts = np.broadcast_to(inside * weights, x.shape)
    largest = np.where(counts > 0, x, 0.0).max(-1, keepdims=True)
    scale = np.where(largest > 0, largest, 1.0)
    with np.errstate(under="ignore", over="ignore", invalid="ignore"):
        powers = np.where(counts > 0, (x / scale) ** p, 0.0)
        mean = (counts * powers).sum(-1) / np.where(counts.sum(-1) > 0, counts.sum(-1), 1.0)
        p = p[..., 0] if isinstance(p, np.ndarray) else p
        result: Array = scale[..., 0] * mean ** (1 / p)
    return result


def softmax_mean(x: Array, inside: Array, alpha: Any) -> Array:
    exponents = np.where(inside, alpha * x, -np.inf)
    weights = np.exp(exponents - exponents.max(-1, keepdims=True))
    return total(x * weights, inside) / total(weights, inside)


def log_mean_exp(x: Array, inside: Array, r: Any) -> Array:
    maximum = np.where(inside, x, -np.inf).max(-1, keepdims=True)
    # The exponents may be so small that their exponentials are 1.
    mean = total(np.expm1(r * np.where(inside, x - maximum, 0.0)), inside) / inside.sum(-1)
    r = r[..., 0] if isinstance(r, np.ndarray) else r
    result: Array = maximum[..., 0] + np.log1p(mean) / r
    return result


def similarity_mean(x: Array, inside: Array) -> Array:
    mean = (total(x, inside) / inside.sum(-1))[..., None]
    scale = np.maximum(np.abs(x), np.abs(mean))
    scale[scale == 0] = 1.0
    a, b = x / scale, mean / scale
    weights = np.exp(2 * np.abs(a * b) / np.where((a == 0) & (b == 0), 1.0, a**2 + b**2))
    return total(x * weights, inside) / total(weights, inside)


def _gem(spec: Any, x: Array) -> Array:
    values, inside = windows_of(spec, x)
    return power_mean(np.maximum(values, spec.eps), inside, of_channels(spec.p, x))


def _power_avg(spec: Any, x: Array) -> Array:
    values, inside = windows_of(spec, x)
    return power_mean(np.abs(values), inside, of_channels(spec.p, x))


def _soft(spec: Any, x: Array) -> Array:
    return softmax_mean(*windows_of(spec, x), 1.0)


def _alpha_softmax(spec: Any, x: Array) -> Array:
    return softmax_mean(*windows_of(spec, x), of_channels(spec.alpha, x))


def _lse(spec: Any, x: Array) -> Array:
    return log_mean_exp(*windows_of(spec, x), of_channels(spec.r, x))


def _edscw(spec: Any, x: Array) -> Array:
    return similarity_mean(*windows_of(spec, x))


def _ada(spec: Any, x: Array) -> Array:
    beta = of_channels(spec.beta, x)
    beta = beta[..., 0] if isinstance(beta, np.ndarray) else beta
    if spec.beta_map is not None:
        beta = spec.beta_map.array.astype(np.float64)
    result: Array = beta * _edscw(spec, x) + (1 - beta) * _soft(spec, x)
    return result


def descending(spec: Any, x: Array) -> tuple[Array, Array]:
    """Return the sorted values of each window, the largest first and what lies outside last, and how many there are."""
    values, inside = windows_of(spec, x)
    lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    values = np.where(inside, values, lowest)
    return np.flip(np.sort(values, -1), -1), np.broadcast_to(inside.sum(-1), values.shape[:-1])


def _at_rank(values: Array, rank: Any) -> Array:
    return np.take_along_axis(values, np.asarray(rank)[..., None], -1)[..., 0]


def _median(spec: Any, x: Array) -> Array:
    values, counts = descending(spec, x)
    return _at_rank(values, counts // 2)


def _rank(spec: Any, x: Array) -> Array:
    values, counts = descending(spec, x)
    rank = np.minimum(spec.rank, counts)
    return _at_rank(values, rank - 1 if spec.largest else counts - rank)


def _mean_of_places(values: Array, first: Any, end: Any) -> Array:
    places = np.arange(values.shape[-1])
    chosen = (places >= first[..., None]) & (places < end[..., None])
    return np.where(chosen, values, 0.0).sum(-1) / (end - first)


def _top_k(spec: Any, x: Array) -> Array:
    values, counts = descending(spec, x)
    return _mean_of_places(values, np.zeros_like(counts), np.minimum(counts, spec.k))


def _trimmed(spec: Any, x: Array) -> Array:
    values, counts = descending(spec, x)
    cut = np.floor(spec.proportiontocut * counts).astype(int) if spec.cut is None else np.full_like(counts, spec.cut)
    cut = np.minimum(cut, (counts - 1) // 2)
    return _mean_of_places(values, cut, counts - cut)


def _ordinal(spec: Any, x: Array) -> Array:
    values, counts = descending(spec, x)
    weights = spec.weights.array.astype(np.float64)
    weights = weights.reshape(len(weights), *(1,) * (x.ndim - 1), -1) if weights.ndim == 2 else weights
    counted = (np.arange(values.shape[-1]) < counts[..., None]) & (weights != 0)
    result: Array = (np.where(counted, values, 0.0) * weights).sum(-1)
    return result


def _stochastic(spec: Any, x: Array) -> Array:
    values, inside = windows_of(spec, np.maximum(x, 0))
    values = np.where(inside, values, 0.0)
    largest = np.where(values.max(-1, keepdims=True) > 0, values.max(-1, keepdims=True), 1.0)
    shares = values / largest
    sums = shares.sum(-1)
    return largest[..., 0] * (shares**2).sum(-1) / np.where(sums > 0, sums, 1.0)


def _blur(spec: Any, x: Array) -> Array:
    mode = {"reflect": "reflect", "replicate": "edge", "zeros": "constant"}[spec.padding_mode]
    for axis, (size, step) in enumerate(zip(spec.kernel_size, spec.stride, strict=True), 1):
        before, after = (size - 1) // 2, size // 2
        sides = [(0, 0)] * x.ndim
        sides[axis] = (before, after)
        padded = np.pad(x, sides, mode)
        parts = [padded.take(range(k, k + x.shape[axis], step), axis) for k in range(size)]
        x = sum(weight / 2.0 ** (size - 1) * part for weight, part in zip(PASCAL[size], parts, strict=True))
    return x


def _max_blur(spec: Any, x: Array) -> Array:
    axes = tuple(range(1, x.ndim))
    windows = np.lib.stride_tricks.sliding_window_view(x, spec.max_pool_size, axes)
    return _blur(spec, windows.max(tuple(range(x.ndim, windows.ndim))))


def _wavelet(spec: Any, x: Array) -> Array:
    factor = 1 / math.sqrt(2) if spec.norm == "ortho" else 0.5
    return np.stack([approximation(plane, spec.levels, factor) for plane in x])


def _spectral(spec: Any, x: Array) -> Array:
    for axis, size in enumerate(spec.output_size, 1):
        if size not in (None, x.shape[axis]):
            x = np.moveaxis(cropped(np.moveaxis(x, axis, -1), size, spec.norm), -1, axis)
    return x


def of_tiles(x: Array, sizes: tuple[int, ...], reduce: Callable[[Array], Any]) -> Array:
    result = np.empty((len(x), *sizes))
    for number, channel in enumerate(x):
        for tile, values in tiles(channel, sizes):
            result[(number, *tile)] = reduce(values)
    return result


def _pyramid(spec: Any, x: Array) -> Array:
    reduce = np.max if spec.mode == "max" else np.mean
    return np.concatenate([of_tiles(x, (level,) * (x.ndim - 1), reduce).ravel() for level in spec.levels])


def _means_and_maxima(spec: Any, x: Array) -> tuple[Array, Array]:
    sizes = tuple(
        size if wanted is None else wanted for wanted, size in zip(spec.output_size, x.shape[1:], strict=True)
    )
    return of_tiles(x, sizes, np.mean), of_tiles(x, sizes, np.max)


def unit(vector: Array) -> Array:
    largest = np.abs(vector).max()
    return vector / largest / np.linalg.norm(vector / largest) if largest else vector


def _mac(_spec: Any, x: Array) -> Array:
    return unit(x.reshape(len(x), -1).max(1))


def _rmac(spec: Any, x: Array) -> Array:
    regions = published_regions(x.shape[1], x.shape[2], spec.levels)
    return unit(
        sum(unit(x[:, top : top + size, left : left + size].max((1, 2))) for top, left, size in regions) * np.ones(1)
    )


def _spoc(spec: Any, x: Array) -> Array:
    weights = np.ones(x.shape[1:])
    if spec.center_prior:
        for axis, size in enumerate(x.shape[1:]):
            distances = np.arange(size) - (size - 1) / 2
            prior = np.exp(-0.5 * (distances / (min(x.shape[1:]) / 6)) ** 2)
            weights *= prior.reshape(-1, *(1,) * (x.ndim - 2 - axis))
    return unit((x * weights).reshape(len(x), -1).sum(1))


def _crow(spec: Any, x: Array) -> Array:
    values = x.reshape(len(x), -1)
    sums = values.sum(0)
    sums = sums / (sums.max() or 1.0)
    norm = (sums**spec.alpha).sum() ** (1 / spec.alpha) or 1.0
    filled = (values != 0).mean(1)
    of_filled = np.log(filled.sum() / np.where(filled > 0, filled, 1.0)) * (filled > 0)
    return unit(values @ (sums / norm) ** (1 / spec.beta) * of_filled)


def _strip(_spec: Any, x: Array) -> Array:
    return x.mean(2, keepdims=True) + x.mean(1, keepdims=True)


def _coordinate(_spec: Any, x: Array) -> Array:
    return np.concatenate([x.mean(2), x.mean(1)], 1)[..., None]


def _corner(spec: Any, x: Array) -> Array:
    maxima = []
    for edge in spec.mode.split("_"):
        axis = 1 if edge in ("top", "bottom") else 2
        towards = np.flip(x, axis) if edge in ("top", "left") else x
        running = np.maximum.accumulate(towards, axis)
        maxima.append(np.flip(running, axis) if edge in ("top", "left") else running)
    result: Array = sum(maxima)
    return result


def _pool_former(spec: Any, x: Array) -> Array:
    values, inside = windows_of(spec, x)
    return total(values, inside) / inside.sum(-1) - x


def _gated(spec: Any, x: Array) -> Array:
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


def _covariance(spec: Any, x: Array) -> Array:
    matrix = covariances(x)
    return upper_triangle(newton_schulz(matrix, spec.iterations) if spec.iterations and matrix.any() else matrix)


def normalized(spec: Any, vector: Array) -> Array:
    if spec.signed_sqrt:
        vector = np.sign(vector) * np.sqrt(np.abs(vector))
    return unit(vector) if spec.l2_normalize else vector


def _bilinear(spec: Any, x: Array) -> Array:
    return normalized(spec, outer_products(x).ravel())


def _compact(spec: Any, x: Array) -> Array:
    channels = torch.arange(len(x))
    places = [random_numbers.integers(spec.seed, channels, spec.output_dim, stream).numpy() for stream in (0, 1)]
    signs = [2 * random_numbers.integers(spec.seed, channels, 2, stream).numpy() - 1 for stream in (2, 3)]
    sketch = np.zeros(spec.output_dim)
    np.add.at(sketch, np.add.outer(*places) % spec.output_dim, outer_products(x) * np.multiply.outer(*signs))
    return normalized(spec, sketch)


def _masked(spec: Any, x: Array) -> tuple[Array, Array, Array]:
    values, inside = windows_of(spec, x)
    if spec.lengths is not None:
        mask = np.arange(x.shape[1]) < spec.lengths.array
    else:
        mask = spec.mask.array.astype(np.float64)
    weights, _ = windows_of(spec, mask.reshape(1, *x.shape[1:]).astype(np.float64))
    return values, inside, weights


def _masked_avg(spec: Any, x: Array) -> Array:
    values, inside, weights = _masked(spec, x)
    weight = total(weights, inside)
    return total(values * weights, inside) / np.where(weight > 0, weight, 1.0)


def _masked_max(spec: Any, x: Array) -> Array:
    values, inside, weights = _masked(spec, x)
    counted = inside & (weights > 0)
    return np.where(counted.any(-1), np.where(counted, values, -np.inf).max(-1), 0.0)


def _masked_gem(spec: Any, x: Array) -> Array:
    values, inside, weights = _masked(spec, x)
    return power_mean(np.maximum(values, spec.eps), inside, spec.p, weights)


def _max_unpool(spec: Any, x: Array) -> Array:
    result = np.zeros(output_shape(spec, x.shape))
    for channel, values, indices in zip(result, x, spec.indices.array, strict=True):
        channel.reshape(-1)[indices.reshape(-1)] = values.reshape(-1)
    return result


def _avg_unpool(spec: Any, x: Array) -> Array:
    result = np.zeros(output_shape(spec, x.shape))
    for place in itertools.product(*map(range, x.shape[1:])):
        begins = [i * s - p for i, s, p in zip(place, spec.window[1], spec.window[2], strict=True)]
        at = tuple(
            slice(max(begin, 0), min(begin + k, size))
            for begin, k, size in zip(begins, spec.window[0], result.shape[1:], strict=True)
        )
        positions = result[(slice(None), *at)]
        positions += x[(slice(None), *place)].reshape(-1, *(1,) * (x.ndim - 1)) / max(math.prod(positions.shape[1:]), 1)
    return result


def _head(spec: Any, x: Array) -> Array:
    example = HEADS[spec.name]
    weights = {name: weight.astype(np.float64) for name, weight in example.weights().items()}
    result: Array = example.reference(weights, x)
    return result


#: By the operator.
REFERENCES: Mapping[str, Reference] = MappingProxyType(
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
        "blur_pool": _blur,
        "max_blur_pool": _max_blur,
        "wavelet_pool": _wavelet,
        "spectral_pool": _spectral,
        "spatial_pyramid_pool": _pyramid,
        "mac": _mac,
        "rmac": _rmac,
        "spoc": _spoc,
        "crow": _crow,
        "scda": lambda spec, x: expected_scda(x, spec.connectivity),
        "strip_pool": _strip,
        "coordinate_pool": _coordinate,
        "corner_pool": _corner,
        "pool_former_pool": _pool_former,
        "adaptive_avg_max_pool": lambda spec, x: sum(_means_and_maxima(spec, x)) / np.float64(2),
        "adaptive_cat_avg_max_pool": lambda spec, x: np.concatenate(_means_and_maxima(spec, x)),
        "gated_max_avg_pool": _gated,
        "covariance_pool": _covariance,
        "bilinear_pool": _bilinear,
        "compact_bilinear_pool": _compact,
        "roi_align": boxes_reference,
        "roi_pool": boxes_reference,
        "ps_roi_align": boxes_reference,
        "ps_roi_pool": boxes_reference,
        "masked_avg_pool": _masked_avg,
        "masked_max_pool": _masked_max,
        "masked_gem_pool": _masked_gem,
        "max_unpool": _max_unpool,
        "avg_unpool": _avg_unpool,
        "pool_head": _head,
    }
)

#: The operators of values that are not negative: sums of others may be close to 0, and all of these divide by them.
POSITIVE = frozenset({"spoc", "crow"})


def assert_agrees(spec: Any, sample: Array) -> None:
    """Assert that a sample (C, *) has the values of the reference: to 1e-5, for float64 to 1e-10, or exactly.

    Errors are relative to the largest value of the plane or vector. Where values of both signs cancel, they are
    relative to the largest value of the result that their magnitudes give.
    """
    reference = REFERENCES[spec.operator]
    exact = sample.astype(np.float64)
    got, expected = pooled(spec, sample[None])[0], reference(spec, exact)
    case = f"{spec} of {sample.shape} {sample.dtype}"
    assert got.dtype == result_dtype(spec, sample.dtype), case
    assert got.shape == expected.shape, case
    if spec.keeps_dtype:
        np.testing.assert_array_equal(got.astype(np.float64), expected, case)
        return
    sizes = np.maximum(np.abs(expected), np.abs(reference(spec, np.abs(exact))))
    largest = sizes.max(tuple(range(1, sizes.ndim)) or None, keepdims=True, initial=0.0)
    is_double = sample.dtype == np.float64 and spec.operator != "pool_head"
    allowed = (1e-10 if is_double else 1e-5) * largest
    if sample.dtype in HALVES:
        limits = ml_dtypes.finfo(sample.dtype)
        # The result is rounded once.
        allowed = allowed + np.abs(expected) * float(limits.eps) / 2 + float(limits.smallest_subnormal)
    errors = np.abs(got.astype(np.float64) - expected)
    assert (errors <= allowed).all(), f"{case}: the error is {errors.max()}, and the largest value {largest.max()}"
