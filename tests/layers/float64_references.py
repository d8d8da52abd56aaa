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

import numpy as np
import torch
from tests.layers.head_folders import HEADS
from tests.layers.test_descriptors import expected_scda, published_regions
from tests.layers.test_every_layer import HALVES, pooled
from tests.layers.test_filters import PASCAL, approximation, cropped
from tests.layers.test_regions_of_interest import boxes_reference
from tests.layers.test_second_order import newton_schulz, upper_triangle
from tests.layers.window_references import OF_WINDOWS, Reference

from poolservice_server.operator_shapes import output_shape, result_dtype
from poolservice_server.pooling.interop import to_tensor
from poolservice_server.pooling.torch_operators import random_numbers


def _blur(spec: Any, x: Any) -> Any:
    mode: Any = {"reflect": "reflect", "replicate": "edge", "zeros": "constant"}[spec.padding_mode]
    for axis, (size, step) in enumerate(zip(spec.kernel_size, spec.stride, strict=True), 1):
        before, after = (size - 1) // 2, size // 2
        sides = [(0, 0)] * x.ndim
        sides[axis] = (before, after)
        padded = np.pad(x, sides, mode)
        parts = [padded.take(range(k, k + x.shape[axis], step), axis) for k in range(size)]
        x = sum(weight / 2.0 ** (size - 1) * part for weight, part in zip(PASCAL[size], parts, strict=True))
    return x


def _max_blur(spec: Any, x: Any) -> Any:
    axes = tuple(range(1, x.ndim))
    windows = np.lib.stride_tricks.sliding_window_view(x, spec.max_pool_size, axes)
    return _blur(spec, windows.max(tuple(range(x.ndim, windows.ndim))))


def _wavelet(spec: Any, x: Any) -> Any:
    factor = 1 / math.sqrt(2) if spec.norm == "ortho" else 0.5
    return np.stack([approximation(plane, spec.levels, factor) for plane in x])


def _spectral(spec: Any, x: Any) -> Any:
    for axis, size in enumerate(spec.output_size, 1):
        if size not in (None, x.shape[axis]):
            x = np.moveaxis(cropped(np.moveaxis(x, axis, -1), size, spec.norm), -1, axis)
    return x


def of_tiles(x: Any, sizes: tuple[int, ...], reduce: Callable[[Any, int], Any]) -> Any:
    """Return what `reduce` makes of the values of each tile, (C, *sizes)."""
    result: Any = np.empty((len(x), *sizes))
    for tile in itertools.product(*map(range, sizes)):
        bounds = [
            slice(math.floor(i * length / size), math.ceil((i + 1) * length / size))
            for i, length, size in zip(tile, x.shape[1:], sizes, strict=True)
        ]
        place: Any = (slice(None), *tile)
        result[place] = reduce(x[(slice(None), *bounds)].reshape(len(x), -1), 1)
    return result


def _pyramid(spec: Any, x: Any) -> Any:
    reduce = np.max if spec.mode == "max" else np.mean
    return np.concatenate([of_tiles(x, (level,) * (x.ndim - 1), reduce).ravel() for level in spec.levels])


def _means_and_maxima(spec: Any, x: Any) -> tuple[Any, Any]:
    sizes = tuple(
        size if wanted is None else wanted for wanted, size in zip(spec.output_size, x.shape[1:], strict=True)
    )
    return of_tiles(x, sizes, np.mean), of_tiles(x, sizes, np.max)


def unit(vector: Any) -> Any:
    largest = np.abs(vector).max()
    return vector / largest / np.linalg.norm(vector / largest) if largest else vector


def _mac(_spec: Any, x: Any) -> Any:
    return unit(x.reshape(len(x), -1).max(1))


def _rmac(spec: Any, x: Any) -> Any:
    regions = published_regions(x.shape[1], x.shape[2], spec.levels)
    return unit(
        sum(unit(x[:, top : top + size, left : left + size].max((1, 2))) for top, left, size in regions) * np.ones(1)
    )


def _spoc(spec: Any, x: Any) -> Any:
    weights = np.ones(x.shape[1:])
    if spec.center_prior:
        for axis, size in enumerate(x.shape[1:]):
            distances = np.arange(size) - (size - 1) / 2
            prior = np.exp(-0.5 * (distances / (min(x.shape[1:]) / 6)) ** 2)
            weights *= prior.reshape(-1, *(1,) * (x.ndim - 2 - axis))
    return unit((x * weights).reshape(len(x), -1).sum(1))


def _crow(spec: Any, x: Any) -> Any:
    values = x.reshape(len(x), -1)
    sums = values.sum(0)
    sums = sums / (sums.max() or 1.0)
    norm = (sums**spec.alpha).sum() ** (1 / spec.alpha) or 1.0
    filled = (values != 0).mean(1)
    of_filled = np.log(filled.sum() / np.where(filled > 0, filled, 1.0)) * (filled > 0)
    return unit(values @ (sums / norm) ** (1 / spec.beta) * of_filled)


def _strip(_spec: Any, x: Any) -> Any:
    return x.mean(2, keepdims=True) + x.mean(1, keepdims=True)


def _coordinate(_spec: Any, x: Any) -> Any:
    return np.concatenate([x.mean(2), x.mean(1)], 1)[..., None]


def _corner(spec: Any, x: Any) -> Any:
    maxima = []
    for edge in spec.mode.split("_"):
        axis = 1 if edge in ("top", "bottom") else 2
        towards = np.flip(x, axis) if edge in ("top", "left") else x
        running = np.maximum.accumulate(towards, axis)
        maxima.append(np.flip(running, axis) if edge in ("top", "left") else running)
    return sum(maxima)


def outer_products(x: Any) -> Any:
    vectors = x.reshape(len(x), -1)
    return vectors @ vectors.T


def _covariance(spec: Any, x: Any) -> Any:
    matrix = outer_products(x - x.mean(tuple(range(1, x.ndim)), keepdims=True)) / math.prod(x.shape[1:])
    return upper_triangle(newton_schulz(matrix, spec.iterations) if spec.iterations and matrix.any() else matrix)


def normalized(spec: Any, vector: Any) -> Any:
    if spec.signed_sqrt:
        vector = np.sign(vector) * np.sqrt(np.abs(vector))
    return unit(vector) if spec.l2_normalize else vector


def _bilinear(spec: Any, x: Any) -> Any:
    return normalized(spec, outer_products(x).ravel())


def _compact(spec: Any, x: Any) -> Any:
    channels = torch.arange(len(x))
    places = [random_numbers.integers(spec.seed, channels, spec.output_dim, stream).numpy() for stream in (0, 1)]
    signs = [2 * random_numbers.integers(spec.seed, channels, 2, stream).numpy() - 1 for stream in (2, 3)]
    sketch = np.zeros(spec.output_dim)
    np.add.at(sketch, np.add.outer(*places) % spec.output_dim, outer_products(x) * np.multiply.outer(*signs))
    return normalized(spec, sketch)


def _max_unpool(spec: Any, x: Any) -> Any:
    result = np.zeros(output_shape(spec, x.shape))
    for channel, values, indices in zip(result, x, spec.indices.array, strict=True):
        channel.reshape(-1)[indices.reshape(-1)] = values.reshape(-1)
    return result


def _avg_unpool(spec: Any, x: Any) -> Any:
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


def _head(spec: Any, x: Any) -> Any:
    example = HEADS[spec.name]
    weights = {name: weight.astype(np.float64) for name, weight in example.weights().items()}
    return example.reference(weights, x)


#: By the operator.
REFERENCES: Mapping[str, Reference] = MappingProxyType(
    {
        **OF_WINDOWS,
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
        "adaptive_avg_max_pool": lambda spec, x: sum(_means_and_maxima(spec, x)) / np.float64(2),
        "adaptive_cat_avg_max_pool": lambda spec, x: np.concatenate(_means_and_maxima(spec, x)),
        "covariance_pool": _covariance,
        "bilinear_pool": _bilinear,
        "compact_bilinear_pool": _compact,
        "roi_align": boxes_reference,
        "roi_pool": boxes_reference,
        "ps_roi_align": boxes_reference,
        "ps_roi_pool": boxes_reference,
        "max_unpool": _max_unpool,
        "avg_unpool": _avg_unpool,
        "pool_head": _head,
    }
)

#: The operators of values that are not negative: sums of others may be close to 0, and all of these divide by them.
POSITIVE = frozenset({"spoc", "crow"})


def _of_ill_conditioned(spec: Any, exact: Any, largest: Any) -> Any:
    """Return what errors are relative to, if the docstring says that it is more than the largest value."""
    if spec.operator in ("pool_former_pool", "covariance_pool"):
        return np.maximum(largest, np.abs(exact).max())
    if spec.operator == "ordinal_pool":
        # The terms of a sum, whose weights have both signs.
        terms = np.abs(exact) * np.abs(spec.weights.array).max()
        return np.maximum(largest, terms.max(tuple(range(1, exact.ndim)), keepdims=True))
    if spec.operator == "gated_max_avg_pool":
        # The rounding errors of the sum in the gate, which are relative to its terms.
        return largest * (1 + 0.02 * np.abs(spec.weight.array).sum() * np.abs(exact).max())
    return largest


def assert_agrees(spec: Any, sample: Any) -> None:
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
    largest = _of_ill_conditioned(spec, exact, largest)
    is_double = sample.dtype == np.float64 and spec.operator != "pool_head"
    allowed = (1e-10 if is_double else 1e-5) * largest
    if sample.dtype in HALVES:
        # The result is rounded once, below the least normal number to a multiple of `tiny * eps`.
        limits = torch.finfo(to_tensor(sample).dtype)
        allowed = allowed + np.abs(expected) * limits.eps / 2 + limits.tiny * limits.eps
    errors = np.abs(got.astype(np.float64) - expected)
    assert (errors <= allowed).all(), f"{case}: the error is {errors.max()}, and the largest value {largest.max()}"
