"""Median, ranks, means of ranks and weights by rank equal what sorting each window gives."""

import math
from collections.abc import Callable, Iterator
from itertools import product
from random import Random
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from poolservice.errors import InvalidRequest
from poolservice.specs import (
    LAYERS,
    MedianPool2d,
    OrdinalPool2d,
    PoolSpec,
    RankPool1d,
    RankPool2d,
    TopKAvgPool2d,
    TrimmedMeanPool1d,
    TrimmedMeanPool2d,
)
from poolservice_server.operator_shapes import output_shape
from poolservice_server.pool_stage import PoolStage
from poolservice_server.pooling import run_on_arrays, run_on_tensors
from poolservice_server.pooling.torch_operators.sorting_networks import values_of_ranks

Values = np.ndarray[Any, Any]
#: The result of the sorted values of a window, and of the number of the channel.
Reference = Callable[[Values, int], float]


def pooled(spec: PoolSpec, sample: Values) -> Values:
    """Return the result of a sample (C, *)."""
    values = run_on_arrays(PoolStage.of((spec,), len(sample)), sample)[0].values
    result: Values = values.reshape(output_shape(spec, sample.shape))
    return result


def windows(spec: Any, shape: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
    """Yield each output position with the part of the planes of a sample that its window covers."""
    kernel, stride, padding, _, _ = spec.window_in(shape[1:])
    for position in product(*map(range, output_shape(spec, shape)[1:])):
        starts = [index * step - pad for index, step, pad in zip(position, stride, padding, strict=True)]
        yield position, tuple(slice(max(0, start), start + size) for start, size in zip(starts, kernel, strict=True))


def expected(spec: Any, sample: Values, reference: Reference) -> Values:
    exact = sample if sample.dtype.kind in "iu" else sample.astype(np.float64)
    result = np.empty(output_shape(spec, sample.shape), exact.dtype if spec.keeps_dtype else np.float64)
    for channel, plane in enumerate(exact):
        for position, part in windows(spec, sample.shape):
            values = plane[part].reshape(-1)
            is_nan = values.dtype.kind == "f" and np.isnan(values).any()
            result[(channel, *position)] = math.nan if is_nan else reference(np.sort(values), channel)
    return result


def median(ascending: Values, _channel: int) -> float:
    value: float = ascending[(len(ascending) + 1) // 2 - 1]
    return value


def rank(spec: Any) -> Reference:
    def reference(ascending: Values, _channel: int) -> float:
        ordered = ascending[::-1] if spec.largest else ascending
        value: float = ordered[min(spec.rank, len(ordered)) - 1]
        return value

    return reference


def top_k_mean(spec: Any) -> Reference:
    return lambda ascending, _: float(np.mean(ascending[::-1][: spec.k]))


def trimmed_mean(spec: Any) -> Reference:
    def reference(ascending: Values, _channel: int) -> float:
        count = len(ascending)
        cut = math.floor(spec.proportiontocut * count) if spec.cut is None else spec.cut
        while 2 * cut >= count:
            cut -= 1
        return float(np.mean(ascending[cut : count - cut]))

    return reference


def ordinal(spec: Any) -> Reference:
    def reference(ascending: Values, channel: int) -> float:
        array = spec.weights.array
        weights = array[channel] if array.ndim == 2 else array
        return float(sum(weight * value for weight, value in zip(weights, ascending[::-1], strict=False)))

    return reference


def random_case(random: Random) -> tuple[int, dict[str, Any], tuple[int, ...], int]:
    """Return a number of dimensions, the parameters of windows, a spatial shape and the size of a window."""
    dims = random.choice((1, 2, 2, 3))
    longest = {1: 400, 2: 40, 3: 9}[dims]
    spatial = tuple(random.randint(3, longest) for _ in range(dims))
    if random.random() < 0.2:
        return dims, {}, spatial, math.prod(spatial)
    kernel = tuple(random.randint(1, min(size, 7)) for size in spatial)
    parameters = {
        "kernel_size": kernel,
        "stride": tuple(random.randint(1, 4) for _ in spatial),
        "padding": tuple(random.randint(0, size // 2) for size in kernel),
        "ceil_mode": random.random() < 0.5,
    }
    return dims, parameters, spatial, math.prod(kernel)


def random_specs(random: Random) -> tuple[list[tuple[PoolSpec, Reference]], tuple[int, ...]]:
    """Return a spec of each operator with its reference, and the shape of a sample."""
    dims, parameters, spatial, size = random_case(random)
    channels = random.randint(1, 3)
    weights = np.random.default_rng(random.getrandbits(32)).normal(size=(channels, size))
    weights[:, random.randrange(size)] = 0

    def layer(operator: str, **more: Any) -> Any:
        return LAYERS[operator, dims](**parameters, **more)

    ranked = layer("rank_pool", rank=random.randint(1, size), largest=random.random() < 0.5)
    averaged = layer("top_k_avg_pool", k=random.randint(1, min(size, random.choice((4, size)))))
    by_share = layer("trimmed_mean_pool", proportiontocut=random.choice((0.0, 0.1, 0.25, 0.49)))
    by_count = layer("trimmed_mean_pool", cut=random.randint(0, (size - 1) // 2))
    weighted = layer("ordinal_pool", weights=weights if random.random() < 0.5 else weights[0])
    return [
        (layer("median_pool"), median),
        (ranked, rank(ranked)),
        (averaged, top_k_mean(averaged)),
        (by_share, trimmed_mean(by_share)),
        (by_count, trimmed_mean(by_count)),
        (weighted, ordinal(weighted)),
    ], (channels, *spatial)


@pytest.mark.parametrize("seed", range(25))
def test_each_operator_equals_the_reference(seed: int) -> None:
    specs, shape = random_specs(Random(seed))
    generator = np.random.default_rng(seed)
    sample = generator.standard_normal(shape).astype(np.float32)
    sample.reshape(-1)[generator.integers(0, sample.size, sample.size // 5)] = 0.5
    for spec, reference in specs:
        got, want = pooled(spec, sample), expected(spec, sample, reference)
        if spec.keeps_dtype:
            np.testing.assert_array_equal(got, want)
        else:
            np.testing.assert_allclose(got, want, 1e-5, 1e-5, err_msg=repr(spec))


@pytest.mark.parametrize("seed", range(6))
def test_a_window_with_nan_gives_nan_and_others_do_not(seed: int) -> None:
    specs, shape = random_specs(Random(seed))
    generator = np.random.default_rng(seed)
    sample = generator.standard_normal(shape).astype(np.float32)
    sample.reshape(-1)[generator.integers(0, sample.size, 1 + sample.size // 50)] = np.nan
    for spec, reference in specs:
        np.testing.assert_allclose(pooled(spec, sample), expected(spec, sample, reference), 1e-5, 1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.int32, np.int64, np.float64])
def test_a_value_of_a_rank_is_exact_in_every_dtype(dtype: Any) -> None:
    dtype = np.dtype(dtype)
    generator = np.random.default_rng(7)
    if dtype.kind == "f":
        sample = generator.standard_normal((2, 51, 52))
    else:
        limits = np.iinfo(dtype)
        sample = generator.integers(limits.min, limits.max, (2, 51, 52), dtype, endpoint=True)
        sample[:, 10:12] = limits.max
    for spec, reference in (
        (MedianPool2d(3, 1, 1), median),
        (MedianPool2d(7, 3, 2, ceil_mode=True), median),
        (RankPool2d(4, 2, ceil_mode=True), rank(RankPool2d(4))),
        (MedianPool2d(), median),
    ):
        got = pooled(spec, sample)
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, expected(spec, sample, reference))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_a_median_of_floats_of_16_bits_is_one_of_them(dtype: Any) -> None:
    sample = np.random.default_rng(3).standard_normal((1, 60, 60)).astype(dtype)
    got = pooled(MedianPool2d(3, 1), sample)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got.astype(np.float64), expected(MedianPool2d(3, 1), sample, median))


def test_a_median_is_that_of_torch() -> None:
    sample = np.random.default_rng(4).standard_normal((3, 50, 60)).astype(np.float32)
    unfolded = torch.from_numpy(sample).unfold(1, 2, 1).unfold(2, 2, 1).flatten(3)
    np.testing.assert_array_equal(pooled(MedianPool2d(2, 1), sample), unfolded.median(-1).values)


def test_the_first_and_the_last_rank_are_the_minimum_and_the_maximum() -> None:
    sample = np.array([[5.0, 1.0, 3.0, 4.0]], np.float32)
    assert pooled(RankPool1d(1, 4), sample).item() == 1
    assert pooled(RankPool1d(4, 4), sample).item() == 5
    assert pooled(RankPool1d(1, 4, largest=True), sample).item() == 5
    assert pooled(RankPool1d(2, 4, largest=True), sample).item() == 4


def test_a_partly_filled_window_gives_the_last_of_its_ranks() -> None:
    sample = np.array([[5.0, 1.0, 3.0]], np.float32)
    assert pooled(RankPool1d(2, 2, ceil_mode=True), sample).tolist() == [[5, 3]]
    assert pooled(RankPool1d(3, 3, 2, 1), sample).tolist() == [[5, 3]]


def test_a_trimmed_mean_is_that_of_scipy() -> None:
    # From scipy.stats.trim_mean(numpy.arange(20), 0.1) and of 0.29 of the squares of 0 to 6.
    assert pooled(TrimmedMeanPool1d(proportiontocut=0.1), np.arange(20, dtype=np.float32)[None]).item() == 9.5
    squares = np.square(np.arange(7, dtype=np.float32))[None]
    assert pooled(TrimmedMeanPool1d(proportiontocut=0.29), squares).item() == pytest.approx((4 + 9 + 16) / 3)


def test_infinite_values_count_as_values() -> None:
    plane = np.array([[[np.inf, 1], [2, -np.inf]]], np.float32)
    assert pooled(MedianPool2d(), plane).item() == 1
    assert pooled(TrimmedMeanPool2d(cut=1), plane).item() == 1.5
    assert pooled(TopKAvgPool2d(2), plane).item() == np.inf
    assert pooled(OrdinalPool2d([0, 1, 1, 0]), plane).item() == 3
    wide = np.tile(plane, (1, 40, 30))
    assert (pooled(OrdinalPool2d([0, 1, 1, 0], 2), wide) == 3).all()


def test_large_and_small_values_keep_their_precision() -> None:
    plane = np.array([[[1e38, 1e38], [2e-30, 4e-30]]], np.float32)
    assert pooled(TopKAvgPool2d(2), plane).item() == np.float32(1e38)
    assert pooled(OrdinalPool2d([0, 0, 1, 1]), plane).item() == pytest.approx(6e-30, rel=1e-6)


def test_the_paths_of_small_and_large_results_agree() -> None:
    sample = torch.from_numpy(np.random.default_rng(5).standard_normal((1, 100, 100)).astype(np.float32))
    for spec in (MedianPool2d(3, 1, 1), TopKAvgPool2d(2, 3, 1, 1), TrimmedMeanPool2d(4, 1, 2, cut=3)):
        large = run_on_tensors(PoolStage.of((spec,), 1), sample)[0][0]
        small = run_on_tensors(PoolStage.of((spec,), 1), sample[:, :20, :20])[0][0]
        np.testing.assert_allclose(large[:, :17, :17], small[:, :17, :17], 1e-6, 1e-6)


@pytest.mark.parametrize("size", range(1, 33))
def test_a_network_sorts_zeros_and_ones(size: int) -> None:
    """A network that sorts all sequences of zeros and ones sorts everything."""
    cases = (torch.arange(2 ** min(size, 12)).unsqueeze(0) >> torch.arange(size).unsqueeze(1)) & 1
    if size > 12:
        cases = torch.randint(0, 2, (size, 20_000), generator=torch.Generator().manual_seed(size))
    ordered = cases.sort(0).values
    for rank_wanted in range(size):
        places = values_of_ranks(list(cases), frozenset({rank_wanted}))
        assert torch.equal(places[rank_wanted], ordered[rank_wanted])
    assert torch.equal(torch.stack(values_of_ranks(list(cases), frozenset(range(size)))), ordered)


@pytest.mark.parametrize("size", range(2, 33))
def test_a_network_passes_nan_on_to_every_rank(size: int) -> None:
    values = torch.arange(float(size)).unsqueeze(1).repeat(1, size)
    values[range(size), range(size)] = math.nan
    for rank_wanted in range(size):
        assert values_of_ranks(list(values), frozenset({rank_wanted}))[rank_wanted].isnan().all()


@pytest.mark.parametrize(
    ("make", "field", "reason"),
    [
        (lambda: RankPool2d(0, 2), "rank", "must be from 1"),
        (lambda: RankPool2d(5, 2), "rank", "must be at most 4"),
        (lambda: RankPool2d(2.0, 2), "rank", "must be an int"),  # type: ignore[arg-type]
        (lambda: RankPool2d(1, 2, largest=1), "largest", "must be True or False"),  # type: ignore[arg-type]
        (lambda: TopKAvgPool2d(0), "k", "must be from 1"),
        (lambda: TopKAvgPool2d(5, 2), "k", "must be at most 4"),
        (lambda: TrimmedMeanPool2d(2), "proportiontocut", "is required, unless cut is given"),
        (
            lambda: TrimmedMeanPool2d(2, proportiontocut=0.1, cut=1),
            "proportiontocut",
            "goes without cut; leave one of",
        ),
        (
            lambda: TrimmedMeanPool2d(2, proportiontocut=0.5),
            "proportiontocut",
            "less than 0.5, which would leave nothing; got 0.5",
        ),
        (lambda: TrimmedMeanPool2d(2, proportiontocut=-0.1), "proportiontocut", "must be at least 0"),
        (
            lambda: TrimmedMeanPool2d(2, proportiontocut=0.55),
            "proportiontocut",
            "must be at least 0 and less than 0.5, which would leave nothing; got 0.55",
        ),
        (lambda: TrimmedMeanPool2d(2, cut=-1), "cut", "must be from 0"),
        (lambda: TrimmedMeanPool2d(2, cut=2), "cut", "must be at most 1"),
        (lambda: OrdinalPool2d([1, 2, 3], 2), "weights", "must have 4 weights"),
        (lambda: OrdinalPool2d(1.0, 2), "weights", "must have 1 or 2 dimensions"),
        (lambda: OrdinalPool2d([1, np.nan, 2, 3], 2), "weights", "must be finite"),
        (lambda: OrdinalPool2d([1, 1e39, 2, 3], 2), "weights", "the range of float32; it has 1e+39 at [1]"),
        (lambda: MedianPool2d(3, padding=2), "padding", "must be at most half"),
        (lambda: MedianPool2d(stride=2), "stride", "goes with a kernel_size"),
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
        (RankPool2d(10), "rank", "must be at most 9"),
        (TopKAvgPool2d(10), "k", "must be at most 9"),
        (TrimmedMeanPool2d(cut=5), "cut", "must be at most 4"),
        (OrdinalPool2d([1, 2, 3, 4]), "weights", "must have 9 weights"),
        (OrdinalPool2d([[1, 2, 3, 4]] * 3, 2), "weights", "one row for each of the 2 channels"),
    ],
)
def test_parameters_that_do_not_suit_the_planes_are_refused(spec: PoolSpec, field: str, reason: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        output_shape(spec, (2, 3, 3))
    assert error.value.field == field
    assert reason in error.value.reason


def test_many_small_windows_at_the_edge_are_weighted_by_their_own_ranks() -> None:
    plane = np.random.default_rng(4).standard_normal((1, 50, 50)).astype(np.float32)
    weights = np.arange(9.0, 0.0, -1.0)
    padded = np.pad(plane[0].astype(np.float64), 1, constant_values=-np.inf)
    descending = -np.sort(-np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).reshape(50, 50, 9), -1)
    expected = np.where(np.isfinite(descending), descending, 0.0) @ weights
    np.testing.assert_allclose(pooled(OrdinalPool2d(weights, 3, 1, 1), plane)[0], expected, 1e-5, 1e-5)


def test_nan_reaches_the_result_of_many_windows_even_without_weights() -> None:
    plane = np.ones((1, 100, 100), np.float32)
    plane[0, 3, 5] = np.nan
    assert np.argwhere(np.isnan(pooled(OrdinalPool2d([0, 0, 0, 0], 2), plane))).tolist() == [[0, 1, 2]]
