"""Fractional max pooling, compared with torch."""

import math
from collections.abc import Callable
from itertools import product
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from tests.layers.test_random_numbers import words
from tests.layers.test_sampling import CASES, pooled, random_sample

from poolservice.errors import InvalidRequest
from poolservice.specs import FractionalMaxPool2d, FractionalMaxPool3d, PoolSpec
from poolservice_server.operator_shapes import output_shape
from poolservice_server.pool_stage import PoolStage
from poolservice_server.pooling import run_on_arrays

TORCH: dict[int, Callable[..., torch.nn.Module]] = {2: torch.nn.FractionalMaxPool2d, 3: torch.nn.FractionalMaxPool3d}
LAYER: dict[int, Callable[..., Any]] = {2: FractionalMaxPool2d, 3: FractionalMaxPool3d}


@pytest.mark.parametrize(
    ("shape", "parameters"),
    [
        ((3, 9, 12), {"kernel_size": 2, "output_size": (5, 7)}),
        ((3, 9, 12), {"kernel_size": (3, 1), "output_ratio": (0.6, 0.5)}),
        ((2, 30, 31), {"kernel_size": 3, "output_ratio": 0.7}),
        ((2, 7, 7), {"kernel_size": 7, "output_size": 1}),
        ((2, 6, 9, 8), {"kernel_size": (1, 2, 3), "output_size": (4, 5, 3)}),
        ((2, 6, 9, 8), {"kernel_size": 2, "output_ratio": 0.5}),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fractional_pooling_with_given_numbers_is_exactly_that_of_torch(
    shape: tuple[int, ...], parameters: dict[str, Any], dtype: Any
) -> None:
    dims = len(shape) - 1
    sample = random_sample(*shape).astype(dtype)
    sample.reshape(-1)[::17] = np.nan
    numbers = torch.rand((1, shape[0], dims), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    numbers = numbers.to(torch.from_numpy(sample).dtype)
    module = TORCH[dims](**parameters, return_indices=True, _random_samples=numbers)
    values, indices = module(torch.from_numpy(sample)[None])

    spec = LAYER[dims](**parameters, return_indices=True, random_samples=numbers)
    result = run_on_arrays(PoolStage.of((spec,), len(sample)), sample)[0]

    np.testing.assert_array_equal(result.values.reshape(values.shape), values)
    assert result.indices is not None
    np.testing.assert_array_equal(result.indices.reshape(values.shape), indices)


def test_each_sample_may_have_numbers_of_its_own() -> None:
    samples = random_sample(2, 3, 9, 9)
    numbers = torch.rand((2, 3, 2), generator=torch.Generator().manual_seed(2))
    spec = FractionalMaxPool2d(2, 5, random_samples=numbers)
    got = run_on_arrays(PoolStage.of((spec,), 3), samples.reshape(6, 9, 9))[0].values
    module = torch.nn.FractionalMaxPool2d(2, 5, _random_samples=numbers)
    np.testing.assert_array_equal(got.reshape(2, 3, 5, 5), module(torch.from_numpy(samples)))
    with pytest.raises(InvalidRequest, match="has a row for each of 2 samples, but the tensor has 3") as error:
        output_shape(spec, (3, 3, 9, 9))
    assert error.value.field == "random_samples"


def test_fractional_windows_start_where_the_formula_says() -> None:
    numbers = np.array([[0.3, 0.8]])
    sample = random_sample(1, 11, 14).astype(np.float64)
    got = pooled(FractionalMaxPool2d(2, (5, 6), random_samples=numbers), sample)
    starts = []
    for size, count, number in ((11, 5, 0.8), (14, 6, 0.3)):
        step = (size - 2) / (count - 1)
        starts.append([math.floor((i + number) * step) - math.floor(number * step) for i in range(count - 1)])
        starts[-1].append(size - 2)
    for (i, row), (j, column) in product(enumerate(starts[0]), enumerate(starts[1])):
        assert got[0, i, j] == sample[0, row : row + 2, column : column + 2].max()


def test_fractional_windows_follow_from_the_seed_and_the_channel() -> None:
    sample = np.repeat(random_sample(1, 40, 40), 3, 0)
    got = pooled(FractionalMaxPool2d(2, output_ratio=0.7, seed=1), sample)
    assert np.array_equal(got, pooled(FractionalMaxPool2d(2, output_ratio=0.7, seed=1), sample))
    assert not np.array_equal(got, pooled(FractionalMaxPool2d(2, output_ratio=0.7, seed=2), sample))
    assert not np.array_equal(got[0], got[1])


def test_fractional_pooling_of_integers_is_exact() -> None:
    sample = np.random.default_rng(1).integers(-(2**63), 2**63 - 1, (2, 9, 9), np.int64)
    spec = FractionalMaxPool2d(3, 4, return_indices=True)
    result = run_on_arrays(PoolStage.of((spec,), 2), sample)[0]
    assert result.indices is not None
    chosen = np.take_along_axis(sample.reshape(2, -1), result.indices.reshape(2, -1), 1)
    assert np.array_equal(result.values.reshape(2, -1), chosen)
    assert result.values.dtype == np.int64


@pytest.mark.parametrize("seed", CASES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fractional_pooling_with_drawn_parameters_is_exactly_that_of_torch(seed: int, dtype: Any) -> None:
    random = Random(seed)
    dims = 2 + seed % 2
    spatial = [random.randint(4, 40 if dims == 2 else 12) for _ in range(dims)]
    kernel = [random.randint(1, 3) for _ in spatial]
    # With three dimensions, torch refuses as many windows as fit.
    out = tuple(random.randint(1, size - k + 3 - dims) for size, k in zip(spatial, kernel, strict=True))
    sample = random_sample(3, *spatial, seed=seed).astype(dtype)
    # Of float32 for each dtype, channel by channel.
    numbers = torch.tensor([(word >> 40) / 2**24 for word in words(seed, 3 * dims)], dtype=torch.float32)
    numbers = numbers.view(1, 3, dims).to(torch.from_numpy(sample).dtype)
    module = TORCH[dims](kernel, output_size=out, return_indices=True, _random_samples=numbers)
    values, indices = module(torch.from_numpy(sample)[None])
    given: list[dict[str, Any]] = [{"seed": seed}, {"random_samples": numbers}]
    for parameters in given:
        spec = LAYER[dims](kernel, out, return_indices=True, **parameters)
        result = run_on_arrays(PoolStage.of((spec,), 3), sample)[0]
        np.testing.assert_array_equal(result.values.reshape(values.shape), values)
        assert result.indices is not None
        np.testing.assert_array_equal(result.indices.reshape(values.shape), indices)


@pytest.mark.parametrize(
    ("make", "field", "reason"),
    [
        (lambda: FractionalMaxPool2d(2), "output_size", "is required, unless output_ratio is given"),
        (lambda: FractionalMaxPool2d(2, 3, 0.5), "output_size", "goes without output_ratio; leave one of them out"),
        (lambda: FractionalMaxPool2d(2, 0), "output_size", "must be from 1"),
        (lambda: FractionalMaxPool2d(2, output_ratio=1.0), "output_ratio", "must be a number above 0 and below 1"),
        (
            lambda: FractionalMaxPool2d(2, output_ratio=(0.5,) * 3),
            "output_ratio",
            "or 2 of them; got (0.5, 0.5, 0.5)",
        ),
        (lambda: FractionalMaxPool2d(2, output_ratio=0.0), "output_ratio", "must be a number above 0 and below 1"),
        (lambda: FractionalMaxPool2d(2, 3, random_samples=[[0.5] * 3]), "random_samples", "must have the shape"),
        (lambda: FractionalMaxPool2d(2, 3, random_samples=[[0.5, 1.0]]), "random_samples", "must be at least 0"),
        (lambda: FractionalMaxPool2d(2, 3, random_samples=[[-0.1, 0.5]]), "random_samples", "must be at least 0"),
        (lambda: FractionalMaxPool2d(2, 3, random_samples=[[1, 1]]), "random_samples", "and below 1; got 1"),
        (
            lambda: FractionalMaxPool2d(2, 3, random_samples=[[0.5, 1.0000001]]),
            "random_samples",
            "and below 1; got 0.5 to 1.0000001",
        ),
        (lambda: FractionalMaxPool2d(2, 3, return_indices=1), "return_indices", "must be True or False"),  # type: ignore[call-overload]
        (lambda: FractionalMaxPool2d(2, 3, seed=-1), "seed", "must be from 0"),
    ],
)
def test_wrong_parameters_are_refused_in_words(make: Callable[[], PoolSpec], field: str, reason: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        make()
    assert error.value.field == field
    assert reason in error.value.reason


@pytest.mark.parametrize(
    ("spec", "field", "reason"),
    [
        (FractionalMaxPool2d(2, 6), "output_size", "must give a size from 1 to 5"),
        (FractionalMaxPool2d(7, 1), "kernel_size", "must be at most the size of the input, 6; got 7"),
        (FractionalMaxPool2d(16, output_ratio=0.5), "kernel_size", "must be at most the size of the input, 6; got 16"),
        (FractionalMaxPool2d(2, output_ratio=0.1), "output_ratio", "it gives 0"),
        (FractionalMaxPool2d(6, output_ratio=0.1), "output_ratio", "from 1 to 1 for windows of 6 in an input of 6"),
        (FractionalMaxPool2d(2, 2, random_samples=[[0.5, 0.5]] * 3), "random_samples", "each of the 2 channels"),
    ],
)
def test_parameters_that_do_not_suit_the_planes_are_refused(spec: PoolSpec, field: str, reason: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        output_shape(spec, (2, 6, 6))
    assert error.value.field == field
    assert reason in error.value.reason


def test_fractional_pooling_of_three_dimensions_leaves_out_a_window_as_in_torch() -> None:
    for kernel, out, field, reason in (
        (2, 3, "output_size", "must give a size from 1 to 2 for windows of 2 in an input of 4; it gives 3"),
        (4, 1, "kernel_size", "must be less than the size of the input, 4; got 4"),
    ):
        with pytest.raises(RuntimeError, match="too large relative to input"):
            torch.nn.FractionalMaxPool3d(kernel, out)(torch.zeros(1, 4, 4, 4))
        with pytest.raises(InvalidRequest, match=reason) as error:
            output_shape(FractionalMaxPool3d(kernel, out), (1, 4, 4, 4))
        assert error.value.field == field
    assert output_shape(FractionalMaxPool3d(2, 2), (1, 4, 4, 4)) == (1, 2, 2, 2)


def test_fractional_pooling_refuses_sizes_that_float32_does_not_hold() -> None:
    with pytest.raises(InvalidRequest, match="takes no dimension of more than 16777216") as error:
        output_shape(FractionalMaxPool2d(2, 2), (1, 2**24 + 1, 4))
    assert error.value.field == "tensor.shape"
