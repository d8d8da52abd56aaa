"""Operators that pool the products of channels: covariances and bilinear pooling."""

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch

from poolservice_server import kernel_thresholds as thresholds
from poolservice_server.pooling.torch_operators import random_numbers
from poolservice_server.pooling.torch_operators.alignment import aligned

# The matrix of outer products is computed in up to so many blocks of rows, each with this many rows at least.
_MAX_BLOCKS = 4
_LEAST_BLOCK = 48
# Between these magnitudes of the largest value, no sum of products overflows, and none that vanishes matters.
_LEAST_PEAK, _LARGEST_PEAK = 1e-10, 1e15


def covariance_pool(samples: torch.Tensor, spec: Any) -> torch.Tensor:
    """Matrix square root of the channels' covariances: (N, C, *spatial) to (N, C * (C + 1) / 2).

    Source:
        Li, Xie, Wang and Gao, "Towards Faster Training of Global Covariance Pooling Networks by Iterative Matrix Square
        Root Normalization", 2018.
    """
    vectors = samples.flatten(2)
    if spec.iterations > thresholds.SQUARE_ROOT_FLOAT32_ITERATIONS:
        sums = [part.double().sum(2, keepdim=True) for part in _parts(vectors)]
        mean = torch.stack(sums).sum(0) / vectors.shape[2]
        matrix = _outer_products(vectors, mean).div_(vectors.shape[2])
    else:
        centered = vectors - vectors.mean(2, keepdim=True)
        matrix = _sums_of_products(centered).div_(vectors.shape[2]).to(samples.dtype)
        del centered
    if spec.iterations:
        matrix = _square_root(matrix, spec.iterations)
    rows, columns = torch.triu_indices(*matrix.shape[1:], device=samples.device)
    return matrix[:, rows, columns].to(samples.dtype)


def bilinear_pool(samples: torch.Tensor, spec: Any) -> torch.Tensor:
    """Sum of the outer products of the positions' channels: (N, C, *spatial) to (N, C * C).

    Source:
        Lin, RoyChowdhury and Maji, "Bilinear CNN Models for Fine-grained Visual Recognition", 2015.
    """
    vectors = samples.flatten(2)
    products = _sums_of_products(vectors) if _adds_in_float32(vectors) else _outer_products(aligned(vectors))
    return _normalized(products.flatten(1), samples.dtype, spec)


def compact_bilinear_pool(samples: torch.Tensor, spec: Any) -> torch.Tensor:
    """Tensor Sketch of the outer products of the positions' channels: (N, C, *spatial) to (N, output_dim).

    Source:
        Gao, Beijbom, Zhang and Darrell, "Compact Bilinear Pooling", 2016.
    """
    channels = torch.arange(samples.shape[1], device=samples.device)
    # Four independent streams of the seed.
    place1, place2 = (random_numbers.integers(spec.seed, channels, spec.output_dim, stream) for stream in (0, 1))
    sign1, sign2 = (2 * random_numbers.integers(spec.seed, channels, 2, stream) - 1 for stream in (2, 3))
    # The projection is linear, so it follows the sum over the positions, and no Fourier transform is necessary.
    products = _outer_products(aligned(samples.flatten(2)))
    sketch = products.new_zeros(len(samples), 2 * spec.output_dim)
    step = max(1, thresholds.SKETCHED_AT_ONCE // len(channels))
    for rows, places, signs in zip(products.split(step, 1), place1.split(step), sign1.split(step), strict=True):
        signed = rows.mul_(signs[:, None]).mul_(sign2)
        sketch.index_add_(1, (places[:, None] + place2).flatten(), signed.flatten(1))
    # Adding both halves takes the places modulo output_dim.
    return _normalized(sketch[:, : spec.output_dim] + sketch[:, spec.output_dim :], samples.dtype, spec)


def _square_root(matrix: torch.Tensor, iterations: int) -> torch.Tensor:
    """Approximate the square roots of positive semidefinite matrices by Newton-Schulz iterations."""
    trace = matrix.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
    root = matrix / torch.where(trace == 0, 1, trace)
    identity = torch.eye(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
    factor = 1.5 * identity - root / 2
    root = root @ factor
    inverse = factor
    for number in range(1, iterations):
        factor = torch.baddbmm(identity, inverse, root, beta=1.5, alpha=-0.5)
        root = root @ factor
        if number < iterations - 1:
            inverse = factor @ inverse
    return root.mul_(trace.sqrt())


def _adds_in_float32(vectors: torch.Tensor) -> bool:
    """Return True if no value is negative, so that no digits cancel, and float32 holds the sums of products.

    Return False on a GPU, because the call would have to wait for it.
    """
    if not vectors.is_cpu or vectors.dtype != torch.float32:
        return False
    lowest, highest = torch.aminmax(vectors)
    return lowest.item() >= 0 and _LEAST_PEAK <= highest.item() <= _LARGEST_PEAK


def _sums_of_products(vectors: torch.Tensor) -> torch.Tensor:
    """Return the sum over the positions of the outer products of vectors (N, C, M), each part in their dtype.

    The parts are added in float64.
    """
    parts = (aligned(part.contiguous()) for part in vectors.split(thresholds.PRODUCT_MAX_ADDED, 2))
    return reduce(torch.Tensor.add_, ((part @ part.mT).double() for part in parts))


def _outer_products(vectors: torch.Tensor, mean: torch.Tensor | None = None) -> torch.Tensor:
    """Return the sum over the positions of the outer products of vectors (N, C, M), less their mean, in float64.

    Without a mean, the vectors are aligned.

    The square root that follows would magnify the rounding errors of float32 in small values.
    """
    channels = vectors.shape[1]
    block = -(-channels // min(_MAX_BLOCKS, max(1, channels // _LEAST_BLOCK)))
    products = vectors.new_empty(len(vectors), channels, channels, dtype=torch.float64)
    for number, part in enumerate(_parts(vectors)):
        wide = part.double() if mean is None else part.double() - mean
        # The matrix is symmetric, so the products below its diagonal are copies.
        for start in range(0, channels, block):
            end = min(start + block, channels)
            upper = products[:, start:end, start:]
            added = wide[:, start:end] @ wide[:, start:].mT
            upper.copy_(added) if number == 0 else upper.add_(added)
    for start in range(block, channels, block):
        products[:, start : start + block, :start] = products[:, :start, start : start + block].mT
    return products


def _parts(vectors: torch.Tensor) -> Sequence[torch.Tensor]:
    """Return vectors (N, C, M) in parts of so many positions that a copy in float64 is small."""
    parts: Sequence[torch.Tensor] = vectors.split(max(1, thresholds.WIDENED_AT_ONCE // vectors.shape[1]), 2)
    return parts


def _normalized(vectors: torch.Tensor, dtype: torch.dtype, spec: Any) -> torch.Tensor:
    """Return vectors of float64, normalized as the spec says, in another dtype. The vectors are changed in place."""
    if spec.l2_normalize:
        # The squares of the signed square roots are the absolute values. Dividing before the conversion to float32
        # keeps sums beyond its range and below it.
        norm = (vectors.abs() if spec.signed_sqrt else vectors.square()).sum(1, keepdim=True)
        if not spec.signed_sqrt:
            norm.sqrt_()
        vectors.div_(torch.where(norm == 0, 1, norm))
    result = vectors.to(dtype)
    return result.abs().sqrt_().copysign_(result) if spec.signed_sqrt else result
