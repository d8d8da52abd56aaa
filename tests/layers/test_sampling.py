"""Stochastic pooling and S3Pool."""

from collections.abc import Callable
from itertools import product
from random import Random
from typing import Any

import numpy as np
import pytest
from tests.layers.drawn_specs import drawn_sizes
from tests.layers.test_random_numbers import words

from poolservice.errors import InvalidRequest
from poolservice.specs import (
    LAYERS,
    PoolSpec,
    S3Pool1d,
    S3Pool2d,
    StochasticPool1d,
    StochasticPool2d,
    StochasticPool3d,
)
from poolservice_server.operator_shapes import output_shape
from poolservice_server.pool_stage import PoolStage
from poolservice_server.pooling import run_on_arrays

Values = np.ndarray[Any, Any]

CASES = range(40)
# By operator and number of dimensions. The tests call layers with all sorts of parameters.
LAYER_OF: Any = LAYERS


def pooled(spec: PoolSpec, sample: Values) -> Values:
    """Return the result of a sample (C, *)."""
    values = run_on_arrays(PoolStage.of((spec,), len(sample)), sample)[0].values
    result: Values = values.reshape(output_shape(spec, sample.shape))
    return result


def random_sample(*shape: int, seed: int = 0) -> Values:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def window_values(spec: Any, sample: Values) -> dict[tuple[int, ...], Values]:
    """Return the values of each window by the position in the result, negative ones as 0."""
    kernel, stride, padding, _, _ = spec.window_in(sample.shape[1:])
    values = {}
    for position in product(*map(range, output_shape(spec, sample.shape))):
        starts = [index * step - pad for index, step, pad in zip(position[1:], stride, padding, strict=True)]
        part = tuple(slice(max(0, start), start + size) for start, size in zip(starts, kernel, strict=True))
        values[position] = np.maximum(sample[position[0]][part].astype(np.float64), 0)
    return values


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        (StochasticPool1d(3, 2, 1, ceil_mode=True), (2, 20)),
        (StochasticPool2d(2), (3, 9, 8)),
        (StochasticPool2d((5, 3), 2, 1), (1, 20, 30)),
        (StochasticPool2d(), (2, 9, 8)),
        (StochasticPool3d(2, 1, 1), (2, 4, 5, 6)),
    ],
)
def test_the_weighted_form_is_the_mean_weighted_by_probabilities(spec: PoolSpec, shape: tuple[int, ...]) -> None:
    sample = random_sample(*shape)
    got = pooled(spec, sample)
    for position, values in window_values(spec, sample).items():
        want = (values * values / values.sum()).sum() if values.any() else 0
        assert got[position] == pytest.approx(want, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("mode", ["weighted", "sampled"])
def test_stochastic_pooling_of_extreme_values(mode: str) -> None:
    spec = StochasticPool1d(2, mode=mode)
    pairs = [[-1, -2], [0, 0], [3e38, 0], [1e-40, 0], [np.inf, 5], [np.nan, 5], [np.inf, np.nan], [-np.inf, 4]]
    got = pooled(spec, np.array([pairs], np.float32).reshape(1, -1))[0]
    np.testing.assert_allclose(got, [0, 0, 3e38, 1e-40, np.inf, np.nan, np.nan, 4], 1e-5)


def test_the_sum_of_a_window_may_exceed_the_range() -> None:
    assert pooled(StochasticPool1d(2), np.full((1, 2), 3e38, np.float32)).item() == np.float32(3e38)
    assert pooled(StochasticPool1d(2), np.full((1, 2), 1e-30, np.float32)).item() == np.float32(1e-30)


def test_a_drawn_value_is_in_its_window_and_the_seed_decides() -> None:
    sample = random_sample(3, 20, 21)
    spec = StochasticPool2d(3, 2, 1, mode="sampled", seed=1)
    got = pooled(spec, sample)
    for position, values in window_values(spec, sample).items():
        assert got[position] in values
        assert got[position] > 0 or not values.any()
    assert np.array_equal(got, pooled(spec, sample))
    assert not np.array_equal(got, pooled(StochasticPool2d(3, 2, 1, mode="sampled", seed=2), sample))


def test_values_are_drawn_in_proportion_to_themselves() -> None:
    sample = np.tile(np.array([1, 2, 0, 5], np.float32), (4, 5000))
    drawn = pooled(StochasticPool1d(4, mode="sampled"), sample)
    shares = {value: float((drawn == value).mean()) for value in (1, 2, 0, 5)}
    assert shares == pytest.approx({1: 1 / 8, 2: 2 / 8, 0: 0, 5: 5 / 8}, abs=0.015)
    assert not np.array_equal(drawn[0], drawn[1])


def test_a_draw_depends_on_the_position_in_the_sample_alone() -> None:
    samples = random_sample(4, 3, 8, 9)
    spec = StochasticPool2d(2, mode="sampled", seed=9)
    together = run_on_arrays(PoolStage.of((spec,), 3), samples.reshape(12, 8, 9))[0].values
    for number, sample in enumerate(samples):
        assert np.array_equal(together.reshape(4, 3, 4, 4)[number], pooled(spec, sample))


@pytest.mark.parametrize(("kernel", "stride", "grid"), [(2, None, None), (2, 2, 4), (3, 2, 6), (1, 2, 2), (3, 2, 4)])
@pytest.mark.parametrize("size", [9, 12, 23])
def test_s3_pool_keeps_positions_of_each_cell(kernel: int, stride: int | None, grid: int | None, size: int) -> None:
    spec = S3Pool1d(kernel, stride, grid, seed=3)
    ((_, stride, grid),) = spec.axes
    got = pooled(spec, np.arange(size, dtype=np.float32)[None])[0]
    # The maximum of ascending values is the last one of its window.
    positions = got.astype(int) - (kernel - 1)
    cells, kept = size // grid, grid // stride
    assert len(positions) == cells * kept
    assert (np.diff(positions) > 0).all()
    for number in range(cells):
        end = (number + 1) * grid if number < cells - 1 else size - kernel + 1
        chosen = positions[number * kept : (number + 1) * kept]
        assert ((number * grid <= chosen) & (chosen < end)).all()


def test_s3_pool_takes_the_same_rows_and_columns_of_all_channels_and_samples() -> None:
    sample = random_sample(3, 12, 14)
    spec = S3Pool2d((2, 3), 2, 4, seed=1)
    maxima = np.max([sample[:, row : row + 11, column : column + 12] for row in range(2) for column in range(3)], 0)
    # Maxima of ascending values show where they come from.
    (rows,) = pooled(spec, np.broadcast_to(np.arange(12, dtype=np.float32)[None, :, None], (1, 12, 14)))
    (columns,) = pooled(spec, np.broadcast_to(np.arange(14, dtype=np.float32), (1, 12, 14)))
    chosen = np.ix_(range(3), rows[:, 0].astype(int) - 1, columns[0].astype(int) - 2)
    assert np.array_equal(pooled(spec, sample), maxima[chosen])
    assert np.array_equal(pooled(spec, sample[1:2]), maxima[chosen][1:2])


def test_s3_pool_draws_each_position_equally_often() -> None:
    sample = np.arange(4000, dtype=np.float32)[None]
    positions = pooled(S3Pool1d(1, 2, 4), sample)[0].astype(int) % 4
    assert np.bincount(positions, minlength=4) / len(positions) == pytest.approx([0.25] * 4, abs=0.03)
    assert not np.array_equal(pooled(S3Pool1d(1, 2, seed=1), sample), pooled(S3Pool1d(1, 2, seed=2), sample))


def test_s3_pool_is_exact_for_integers() -> None:
    # With cells of one position, all maxima remain.
    sample = np.array([[2**62 + 1, 2**62, -5, -7]], np.int64)
    assert pooled(S3Pool1d(1, 1, 1), sample).tolist() == sample.tolist()
    assert pooled(S3Pool1d(1, 2, 4), sample).dtype == np.int64


@pytest.mark.parametrize(
    ("make", "field", "reason"),
    [
        (lambda: StochasticPool2d(2, mode="random"), "mode", "must be one of weighted, sampled"),
        (lambda: StochasticPool2d(2, seed=-1), "seed", "must be from 0"),
        (lambda: S3Pool2d(2, 2, 3), "grid_size", "must be a multiple of the stride, 2"),
        (lambda: S3Pool2d(0), "kernel_size", "must be from 1"),
        (lambda: S3Pool2d(2, seed=2**63), "seed", "must be from 0"),
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
        (S3Pool2d(2, 2, 8), "grid_size", "must be at most the size of the input, 6"),
        (S3Pool2d(6, 1, 3), "kernel_size", "must be at most 1 for an input of 6 with a stride of 1 and a grid_size of"),
        (S3Pool2d(99, 1), "kernel_size", "must be at most 1 for an input of 6 with a stride of 1 and a grid_size of 1"),
        (S3Pool2d(2, 1, 3), "kernel_size", "too few positions in the last cell; got 2"),
    ],
)
def test_parameters_that_do_not_suit_the_planes_are_refused(spec: PoolSpec, field: str, reason: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        output_shape(spec, (2, 6, 6))
    assert error.value.field == field
    assert reason in error.value.reason


@pytest.mark.parametrize("kernel_size", [2, None])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_weighted_stochastic_pooling_neither_overflows_nor_loses_values(kernel_size: int | None, scale: float) -> None:
    sample = np.zeros((2, 6), np.float32)
    sample[0] = np.array([0, 0, 3, 1, -2, 2], np.float32) * np.float32(scale)
    spec = StochasticPool1d(kernel_size)
    expected: list[list[float]] = (
        [[0.0, 2.5 * scale, 2 * scale], [0.0] * 3] if kernel_size else [[14 / 6 * scale], [0.0]]
    )
    np.testing.assert_allclose(pooled(spec, sample), expected, rtol=1e-5)


def test_s3_pool_chooses_rows_and_columns_independently_of_each_other() -> None:
    rows, columns = np.meshgrid(np.arange(16.0), np.arange(16.0), indexing="ij")
    kept = pooled(S3Pool2d(1, 2, 4), np.stack([rows, columns]).astype(np.float32))
    assert kept[0, :, 0].tolist() != kept[1, 0, :].tolist()


def test_s3_pool_can_choose_every_position_of_the_longer_last_cell() -> None:
    sample = np.arange(7, dtype=np.float32)[None]
    chosen = {value for seed in range(40) for value in pooled(S3Pool1d(1, 2, 4, seed=seed), sample).ravel().tolist()}
    assert chosen == set(range(7))


@pytest.mark.parametrize("seed", CASES)
def test_a_drawn_value_is_the_one_that_the_hash_of_its_position_decides(seed: int) -> None:
    random = Random(seed)
    draw = drawn_sizes(random, 1 + seed % 3)
    spec = LAYER_OF["stochastic_pool", draw.dims](mode="sampled", seed=random.getrandbits(63), **draw.window)
    sample = random_sample(draw.channels, *draw.spatial, seed=seed)
    got = pooled(spec, sample)
    hashes = words(spec.seed, got.size)
    for (position, values), word in zip(window_values(spec, sample).items(), hashes, strict=True):
        values = values.reshape(-1).astype(np.float32)
        # The quotient is that of float32. In a window of zeros, all values have the same weight.
        shares = values / values.max() if values.any() else np.ones_like(values)
        sums = np.cumsum([int(share * 2.0**32) for share in shares])
        number = (word >> 11) / 2**53 * float(sums[-1])
        assert got[position] == values[int((sums <= number).sum())], position


def kept_positions(seed: int, axis: int, size: int, kernel: int, stride: int, grid: int) -> list[int]:
    """Return the positions with the lowest hashes of each cell, as signed integers."""
    count = size - kernel + 1
    hashes = [word - 2**64 if word >= 2**63 else word for word in words(seed, count, stream=axis)]
    starts = range(0, size // grid * grid, grid)
    cells = [range(start, count if start == starts[-1] else start + grid) for start in starts]
    lowest = [sorted(cell, key=lambda place: hashes[place] >> 1)[: grid // stride] for cell in cells]
    return [place for places in lowest for place in sorted(places)]


@pytest.mark.parametrize("seed", CASES)
def test_s3_pool_keeps_the_rows_and_columns_with_the_lowest_hashes(seed: int) -> None:
    random = Random(seed)
    dims = 1 + seed % 3
    kernel, stride = ([random.randint(1, most) for _ in range(dims)] for most in (3, 2))
    grid = [step * random.randint(size, 4) for step, size in zip(stride, kernel, strict=True)]
    spatial = [
        random.choice([size for size in range(g, 3 * g) if size % g + g - k + 1 >= g // step])
        for k, step, g in zip(kernel, stride, grid, strict=True)
    ]
    spec = LAYER_OF["s3_pool", dims](kernel, stride, grid, seed=random.getrandbits(63))
    sample = random_sample(2, *spatial, seed=seed)
    kept = [
        kept_positions(spec.seed, axis, *sizes)
        for axis, sizes in enumerate(zip(spatial, kernel, stride, grid, strict=True))
    ]
    windows = np.lib.stride_tricks.sliding_window_view(sample, kernel, tuple(range(1, 1 + dims)))
    maxima = windows.max(tuple(range(1 + dims, 1 + 2 * dims)))
    np.testing.assert_array_equal(pooled(spec, sample), maxima[np.ix_(range(2), *kept)])
