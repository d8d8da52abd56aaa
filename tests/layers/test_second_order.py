"""Second-order pooling against references written from the papers' formulas."""

import itertools
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from tests.layers.test_every_layer import pooled
from tests.layers.test_filters import assert_close, layer, pool_of, values_of

from poolservice import specs
from poolservice.errors import InvalidRequest
from poolservice.specs import (
    BilinearPool2d,
    CompactBilinearPool2d,
    CovariancePool2d,
    PoolSpec,
)
from poolservice_server.pooling.torch_operators import random_numbers

Array = np.ndarray[Any, Any]

CASES = 20


# --- Covariances ---


def covariances(sample: Array) -> Array:
    vectors = sample.reshape(len(sample), -1).astype(np.float64)
    mean = vectors.mean(1)
    total = np.zeros((len(sample), len(sample)))
    for position in vectors.T:
        total += np.outer(position - mean, position - mean)
    return total / vectors.shape[1]


def upper_triangle(matrix: Array) -> Array:
    return np.array([matrix[i, j] for i in range(len(matrix)) for j in range(i, len(matrix))])


def newton_schulz(matrix: Array, iterations: int) -> Array:
    trace = np.trace(matrix)
    y, z, identity = matrix / trace, np.eye(len(matrix)), np.eye(len(matrix))
    for _ in range(iterations):
        factor = (3 * identity - z @ y) / 2
        y, z = y @ factor, factor @ z
    root: Array = np.sqrt(trace) * y
    return root


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("iterations", [0, 1, 2, 5, 8, 20, 30])
def test_a_covariance_pool_computes_the_iterations_of_the_paper(dims: int, iterations: int) -> None:
    random = Random(f"{dims} {iterations}")
    for _ in range(CASES // 4):
        # With fewer positions than channels, some eigenvalues are 0.
        sample = values_of(random, (random.randint(1, 40), *(random.randint(2, 5) for _ in range(dims))))
        matrix = covariances(sample)
        root = newton_schulz(matrix, iterations) if iterations else matrix
        assert_close(pool_of(layer("CovariancePool", dims, iterations), sample), upper_triangle(root))


def test_a_covariance_pool_converges_to_the_exact_square_root() -> None:
    sample = values_of(Random(3), (24, 20, 20)).astype(np.float64)
    sample *= np.geomspace(1, 1e-2, 24)[:, None, None]
    eigenvalues, vectors = np.linalg.eigh(covariances(sample))
    exact = (vectors * np.sqrt(eigenvalues)) @ vectors.T
    np.testing.assert_allclose(pool_of(CovariancePool2d(30), sample), upper_triangle(exact), rtol=1e-9, atol=1e-12)


def test_a_covariance_pool_of_values_with_a_large_mean_loses_no_precision() -> None:
    sample = values_of(Random(4), (8, 14, 14)) + np.float32(1000)
    assert_close(pool_of(CovariancePool2d(), sample), upper_triangle(newton_schulz(covariances(sample), 5)))


@pytest.mark.parametrize("iterations", [0, 5])
def test_a_covariance_pool_of_a_large_plane_is_precise(iterations: int) -> None:
    sample = np.abs(np.random.default_rng(5).standard_normal((3, 512, 600), np.float32)) ** 3
    matrix = covariances(sample)
    expected = upper_triangle(newton_schulz(matrix, iterations) if iterations else matrix)
    assert_close(pool_of(CovariancePool2d(iterations), sample), expected)


def test_constant_channels_have_a_covariance_pool_of_zeros() -> None:
    assert not pool_of(CovariancePool2d(), np.full((3, 4, 4), 7, np.float32)).any()


# --- Bilinear pooling ---


def outer_products(sample: Array) -> Array:
    total = np.zeros((len(sample), len(sample)))
    for position in sample.reshape(len(sample), -1).astype(np.float64).T:
        total += np.outer(position, position)
    return total


def normalized(vector: Array, *, signed_sqrt: bool, l2_normalize: bool) -> Array:
    if signed_sqrt:
        vector = np.sign(vector) * np.sqrt(np.abs(vector))
    return vector / np.linalg.norm(vector) if l2_normalize else vector


FLAGS = pytest.mark.parametrize(("signed_sqrt", "l2_normalize"), list(itertools.product([False, True], repeat=2)))


@FLAGS
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_bilinear_pool_is_the_sum_of_outer_products(dims: int, signed_sqrt: bool, l2_normalize: bool) -> None:
    flags = {"signed_sqrt": signed_sqrt, "l2_normalize": l2_normalize}
    random = Random(f"{dims} {flags}")
    # More than 96 channels are computed in several blocks.
    for channels in (1, 7, 30, 97, 203):
        sample = values_of(random, (channels, *(random.randint(1, 5) for _ in range(dims))))
        expected = normalized(outer_products(sample).flatten(), **flags)
        got = pool_of(layer("BilinearPool", dims, **flags), sample)
        # Every value is precise, not only the large ones.
        np.testing.assert_allclose(got, expected, rtol=1e-5)


@FLAGS
@pytest.mark.parametrize(
    ("shape", "scale"), [((30, 9, 9), 1e-15), ((30, 9, 9), 1.0), ((30, 9, 9), 1e16), ((2, 400, 500), 1)]
)
def test_a_bilinear_pool_of_positive_values_is_precise(
    shape: tuple[int, ...], scale: float, signed_sqrt: bool, l2_normalize: bool
) -> None:
    flags = {"signed_sqrt": signed_sqrt, "l2_normalize": l2_normalize}
    sample = np.maximum(values_of(Random(str(shape)), shape), 0) * np.float32(scale)
    vectors = sample.reshape(len(sample), -1).astype(np.float64)
    got = pool_of(BilinearPool2d(**flags), sample)
    np.testing.assert_allclose(got, normalized((vectors @ vectors.T).flatten(), **flags), rtol=1e-5)


@FLAGS
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_compact_bilinear_pool_is_a_convolution_of_count_sketches(
    dims: int, signed_sqrt: bool, l2_normalize: bool
) -> None:
    flags = {"signed_sqrt": signed_sqrt, "l2_normalize": l2_normalize}
    random = Random(f"{dims} {flags}")
    for output_dim in (1, 16, 501):
        channels, seed = random.randint(1, 130), random.getrandbits(63)
        sample = values_of(random, (channels, *(random.randint(1, 5) for _ in range(dims))))
        positions = torch.arange(channels)
        places = [random_numbers.integers(seed, positions, output_dim, stream).numpy() for stream in (0, 1)]
        signs = [2 * random_numbers.integers(seed, positions, 2, stream).numpy() - 1 for stream in (2, 3)]
        expected = np.zeros(output_dim)
        for position in sample.reshape(channels, -1).astype(np.float64).T:
            sketches = np.zeros((2, output_dim))
            for sketch, place, sign in zip(sketches, places, signs, strict=True):
                np.add.at(sketch, place, sign * position)
            expected += np.fft.ifft(np.fft.fft(sketches[0]) * np.fft.fft(sketches[1])).real
        spec = layer("CompactBilinearPool", dims, output_dim, seed, **flags)
        got = pool_of(spec, sample)
        expected[np.abs(expected) < 1e-9] = 0  # Rounding errors of the Fourier transform where no product is.
        assert_close(got, normalized(expected, **flags))


def test_compact_bilinear_pools_estimate_the_products_of_bilinear_pools() -> None:
    plain = {"signed_sqrt": False, "l2_normalize": False}
    samples = [values_of(Random(seed), (32, 6, 6)) + 0.5 for seed in (1, 2)]
    exact = np.dot(*(pool_of(BilinearPool2d(**plain), sample) for sample in samples))
    estimates = [
        np.dot(*(pool_of(CompactBilinearPool2d(4096, seed, **plain), sample) for sample in samples))
        for seed in range(5)
    ]
    assert len(set(estimates)) == 5
    np.testing.assert_allclose(estimates, exact, rtol=0.1)


@pytest.mark.parametrize("spec", [BilinearPool2d(), CompactBilinearPool2d(64)])
def test_bilinear_pools_of_zeros_are_zeros(spec: PoolSpec) -> None:
    assert not pool_of(spec, np.zeros((3, 4, 4), np.float32)).any()


@pytest.mark.parametrize("scale", [2.0**-100, 2.0**100])
@pytest.mark.parametrize("signed_sqrt", [True, False])
def test_a_normalized_bilinear_pool_is_the_same_at_any_scale(scale: float, signed_sqrt: bool) -> None:
    sample = values_of(Random(2), (5, 6, 7))
    for spec in (BilinearPool2d(signed_sqrt), CompactBilinearPool2d(16, signed_sqrt=signed_sqrt)):
        # The products are beyond the range of float32, or below it.
        np.testing.assert_allclose(pool_of(spec, sample * np.float32(scale)), pool_of(spec, sample), 1e-6)


@pytest.mark.parametrize("spec", [CovariancePool2d(), BilinearPool2d(), CompactBilinearPool2d(64)])
def test_a_nan_gives_nan_everywhere_in_its_vector_and_in_no_other(spec: PoolSpec) -> None:
    samples = np.stack([values_of(Random(1), (5, 4, 4))] * 2)
    samples[0, 2, 1, 1] = np.nan
    result = pooled(spec, samples)
    assert np.isnan(result[0]).all()
    assert np.isfinite(result[1]).all()


@pytest.mark.parametrize(
    ("name", "parameters", "field", "reason"),
    [
        ("CovariancePool2d", {"iterations": 31}, "iterations", "must be from 0 to 30; got 31"),
        ("BilinearPool2d", {"signed_sqrt": 1}, "signed_sqrt", "must be True or False"),
        ("BilinearPool2d", {"l2_normalize": 1}, "l2_normalize", "must be True or False"),
        ("CompactBilinearPool2d", {"output_dim": 0}, "output_dim", "must be from 1 to 1048576; got 0"),
        ("CompactBilinearPool2d", {"signed_sqrt": 1}, "signed_sqrt", "must be True or False"),
        ("CompactBilinearPool2d", {"seed": -1}, "seed", "must be from 0 to"),
    ],
)
def test_wrong_parameters_are_refused_in_words(name: str, parameters: dict[str, Any], field: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason) as error:
        getattr(specs, name)(**parameters)
    assert error.value.field == field
