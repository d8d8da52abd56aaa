"""MAC, R-MAC, SPoC, CroW, SCDA and spatial pyramids, compared with float64 references that follow the papers."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from tests.layers.test_every_layer import pooled

from poolservice.errors import InvalidRequest
from poolservice.specs import (
    LAYERS,
    CroW2d,
    MAC2d,
    PoolSpec,
    RMAC2d,
    SCDA2d,
    SpatialPyramidPool2d,
    SPoC2d,
)
from poolservice_server.operator_shapes import output_shape

CASES = range(25)
# By operator and number of dimensions. The tests call layers with all sorts of parameters.
LAYER: Any = LAYERS


def random_sample(seed: int, dims: int, *, positive: bool = False) -> Any:
    generator = np.random.default_rng(seed)
    shape = (int(generator.integers(1, 6)), *generator.integers(1, 14 if dims < 3 else 6, dims))
    values = generator.standard_normal(shape).astype(np.float32)
    return np.maximum(values, 0) if positive else values


def one(spec: PoolSpec, sample: Any) -> Any:
    return pooled(spec, sample[None])[0]


def of_length_1(vector: Any) -> Any:
    length = math.sqrt(sum(value * value for value in vector))
    return np.array([value / length if length else 0.0 for value in vector])


def close(got: Any, expected: Any) -> None:
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_mac_is_the_maximum_of_each_channel(dims: int) -> None:
    for seed in CASES:
        sample = random_sample(seed, dims)
        expected = of_length_1([float(max(channel.reshape(-1))) for channel in sample])
        close(one(LAYER["mac", dims](), sample), expected)


def published_regions(height: int, width: int, levels: int) -> list[tuple[int, int, int]]:
    """Return the regions (top, left, size) as the authors' code computes them, step by step."""
    w = min(width, height)
    best, extra = math.inf, 0
    for number, steps in enumerate((2, 3, 4, 5, 6, 7), start=1):
        b = (max(width, height) - w) / (steps - 1)
        difference = abs((w**2 - w * b) / w**2 - 0.4)
        if difference < best:
            best, extra = difference, number
    wd = extra if height < width else 0
    hd = extra if height > width else 0
    regions = []
    for level in range(1, levels + 1):
        wl = math.floor(2 * w / (level + 1))
        wl2 = math.floor(wl / 2 - 1)
        b = 0 if level + wd == 1 else (width - wl) / (level + wd - 1)
        cen_w = [math.floor(wl2 + b * i) - wl2 for i in range(level + wd)]
        b = 0 if level + hd == 1 else (height - wl) / (level + hd - 1)
        cen_h = [math.floor(wl2 + b * i) - wl2 for i in range(level + hd)]
        regions += [(top, left, wl) for top in cen_h for left in cen_w if wl > 0]
    return regions


def test_rmac_adds_the_maxima_of_the_published_regions() -> None:
    for seed in CASES:
        sample = random_sample(seed, 2)
        levels = 1 + seed % 5
        total = np.zeros(len(sample))
        for top, left, size in published_regions(sample.shape[1], sample.shape[2], levels):
            region = sample[:, top : top + size, left : left + size].astype(np.float64)
            total += of_length_1([max(channel.reshape(-1)) for channel in region])
        close(one(RMAC2d(levels), sample), of_length_1(total))


def test_the_regions_of_rmac_are_the_published_ones_for_every_size() -> None:
    for height, width in itertools.product(range(1, 40), range(1, 40)):
        regions = [
            (top, left, grid.size)
            for grid in RMAC2d(5).grids(height, width)
            for top, left in itertools.product(grid.tops, grid.lefts)
        ]
        assert regions == published_regions(height, width, 5)
        assert all(top + size <= height and left + size <= width for top, left, size in regions)


def test_rmac_takes_14_regions_of_a_square_and_20_of_a_landscape() -> None:
    square, landscape = RMAC2d().grids(7, 7), RMAC2d().grids(7, 10)
    assert [(grid.size, grid.tops, grid.lefts) for grid in square] == [
        (7, (0,), (0,)),
        (4, (0, 3), (0, 3)),
        (3, (0, 2, 4), (0, 2, 4)),
    ]
    assert [(grid.size, grid.tops, grid.lefts) for grid in landscape] == [
        (7, (0,), (0, 3)),
        (4, (0, 3), (0, 3, 6)),
        (3, (0, 2, 4), (0, 2, 4, 7)),
    ]


@pytest.mark.parametrize("center_prior", [False, True])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_spoc_is_the_sum_of_each_channel(dims: int, center_prior: bool) -> None:
    for seed in CASES:
        sample = random_sample(seed, dims, positive=True)
        spatial = sample.shape[1:]
        sigma = min(spatial) / 2 / 3
        sums = np.zeros(len(sample))
        for position in itertools.product(*map(range, spatial)):
            distance = sum((place - (size - 1) / 2) ** 2 for place, size in zip(position, spatial, strict=True))
            weight = math.exp(-distance / (2 * sigma**2)) if center_prior else 1.0
            sums += weight * sample[(slice(None), *position)].astype(np.float64)
        close(one(LAYER["spoc", dims](center_prior), sample), of_length_1(sums))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_spoc_of_values_that_cancel_is_precise_relative_to_their_magnitudes(dims: int) -> None:
    for seed in CASES:
        sample = random_sample(seed, dims)
        sample -= sample.mean(tuple(range(1, dims + 1)), keepdims=True)
        sums, magnitudes = (
            [math.fsum(map(float, channel.reshape(-1))) for channel in values] for values in (sample, abs(sample))
        )
        got = one(LAYER["spoc", dims](), sample)
        if any(sums):
            allowed = 1e-6 * math.hypot(*magnitudes) / math.hypot(*sums)
            assert np.abs(got - of_length_1(sums)).max() <= allowed


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_crow_weighs_positions_and_channels(dims: int) -> None:
    for seed in CASES:
        sample = random_sample(seed, dims, positive=True).astype(np.float64)
        alpha, beta = ((2.0, 2.0), (3.0, 1.0), (1.5, 4.0))[seed % 3]
        channels = sample.reshape(len(sample), -1)
        sums = [sum(column) for column in channels.T]
        norm = sum(value**alpha for value in sums) ** (1 / alpha)
        positions = [(value / norm) ** (1 / beta) if norm else 0.0 for value in sums]
        filled = [sum(value != 0 for value in channel) / len(channel) for channel in channels]
        expected = [
            sum(a * x for a, x in zip(positions, channel, strict=True)) * (math.log(sum(filled) / q) if q else 0.0)
            for channel, q in zip(channels, filled, strict=True)
        ]
        close(one(LAYER["crow", dims](alpha, beta), sample.astype(np.float32)), of_length_1(expected))


def largest_component(mask: Any, connectivity: int) -> set[tuple[int, int]]:
    steps = [
        step
        for step in itertools.product((-1, 0, 1), repeat=2)
        if 0 < abs(step[0]) + abs(step[1]) <= (2 if connectivity == 8 else 1)
    ]
    left = {(int(row), int(column)) for row, column in np.argwhere(mask)}
    largest: set[tuple[int, int]] = set()
    while left:
        # Column by column, so that of equal components the first one is kept.
        component, waiting = set(), [min(left, key=lambda place: (place[1], place[0]))]
        while waiting:
            place = waiting.pop()
            if place in left:
                left.remove(place)
                component.add(place)
                waiting += [(place[0] + row, place[1] + column) for row, column in steps]
        if len(component) > len(largest):
            largest = component
    return largest


def expected_scda(sample: Any, connectivity: int) -> Any:
    sample = sample.astype(np.float64)
    activation = sample.sum(0)
    mask = activation > activation.mean()
    chosen = largest_component(mask, connectivity) or largest_component(np.ones_like(mask), connectivity)
    values = [[channel[place] for place in sorted(chosen)] for channel in sample]
    return of_length_1([sum(of) / len(of) for of in values] + [max(of) for of in values])


@pytest.mark.parametrize("connectivity", [4, 8])
def test_scda_pools_the_largest_region_of_high_activation(connectivity: int) -> None:
    for seed in range(60):
        sample = random_sample(seed, 2)
        close(one(SCDA2d(connectivity), sample), expected_scda(sample, connectivity))


def test_scda_finds_a_region_that_winds_through_the_whole_plane() -> None:
    rows = [
        "#########.",
        "........#.",
        ".######.#.",
        ".#....#.#.",
        ".#.##.#.#.",
        ".#.#..#.#.",
        ".#.####.#.",
        ".#......#.",
    ]
    rows += [".########.", "..........", "########.#"]
    sample = np.array([[[float(place == "#") for place in row] for row in rows]], np.float32)
    sample = np.concatenate((sample, np.arange(110, dtype=np.float32).reshape(1, 11, 10) * 1e-6))
    for connectivity in (4, 8):
        close(one(SCDA2d(connectivity), sample), expected_scda(sample, connectivity))


def test_scda_keeps_the_first_of_equal_regions_column_by_column() -> None:
    sample = np.zeros((1, 5, 5), np.float32)
    sample[0, 0, 3:], sample[0, 3:, 0] = 3, 2
    np.testing.assert_array_equal(one(SCDA2d(), sample), one(SCDA2d(), sample * (sample == 2)))


@pytest.mark.parametrize("value", [0.0, 0.1, -3.0])
def test_scda_of_a_constant_plane_pools_the_whole_plane(value: float) -> None:
    sample = np.full((7, 6, 9), value, np.float32)
    expected = np.full(14, np.sign(value) / math.sqrt(14))
    close(one(SCDA2d(), sample), expected)


@pytest.mark.parametrize("mode", ["max", "avg"])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_spatial_pyramid_lists_its_tiles_level_by_level(dims: int, mode: str) -> None:
    for seed in CASES:
        sample = random_sample(seed, dims)
        expected = []
        for level in (1, 2, 5):
            for channel in sample.astype(np.float64):
                for tile in itertools.product(range(level), repeat=dims):
                    bounds = [
                        slice(math.floor(i * size / level), math.ceil((i + 1) * size / level))
                        for i, size in zip(tile, channel.shape, strict=True)
                    ]
                    values = channel[tuple(bounds)].reshape(-1)
                    expected.append(max(values) if mode == "max" else sum(values) / len(values))
        close(one(LAYER["spatial_pyramid_pool", dims]((1, 2, 5), mode), sample), expected)


@pytest.mark.parametrize("alpha", [1e-300, 0.5, 1000.0])
def test_the_alpha_of_crow_scales_the_vector_and_cancels(alpha: float) -> None:
    sample = random_sample(8, 2, positive=True)
    close(one(CroW2d(alpha), sample), one(CroW2d(), sample))


def test_crow_with_a_small_beta_counts_the_strongest_position_alone() -> None:
    sample = np.random.default_rng(9).random((4, 5, 6), np.float32)
    strongest = sample.reshape(4, -1)[:, sample.sum(0).argmax()].astype(np.float64)
    # Every value is above 0, so the channels have the same weight.
    close(one(CroW2d(beta=1e-5), sample), strongest / np.linalg.norm(strongest))


@pytest.mark.parametrize("spec", [MAC2d(), RMAC2d(), SPoC2d(), SPoC2d(True), CroW2d(), SCDA2d()], ids=repr)
@pytest.mark.parametrize("scale", [1e-30, 1e33])
def test_a_descriptor_does_not_depend_on_the_scale_of_its_input(spec: PoolSpec, scale: float) -> None:
    sample = random_sample(7, 2, positive=True) + np.float32(0.01)
    close(one(spec, (sample * np.float32(scale)).astype(np.float32)), one(spec, sample))


@pytest.mark.parametrize("spec", [MAC2d(), RMAC2d(), SPoC2d(), SPoC2d(True), CroW2d(), SCDA2d()], ids=repr)
def test_a_descriptor_is_zero_for_zeros_and_nan_for_nan_or_infinity(spec: PoolSpec) -> None:
    sample = np.zeros((3, 5, 6), np.float32)
    assert not one(spec, sample).any()
    for value in (np.nan, np.inf):
        sample[1, 2, 3] = value
        assert np.isnan(one(spec, sample)).all()


@pytest.mark.parametrize(
    ("make", "field", "reason"),
    [
        (lambda: RMAC2d(0), "levels", "must be from 1 to 16; got 0"),
        (lambda: RMAC2d(17), "levels", "must be from 1 to 16; got 17"),
        (lambda: LAYER["spoc", 2](1), "center_prior", "must be True or False; got 1"),
        (lambda: CroW2d(1000.0001), "alpha", "must be above 0, and at most 1000; got 1000.0001"),
        (lambda: CroW2d(0), "alpha", "must be above 0, and at most 1000; got 0"),
        (lambda: CroW2d(beta=-1), "beta", "must be above 0, and at most 1000; got -1"),
        (lambda: CroW2d(math.nan), "alpha", "must be above 0, and at most 1000; got nan"),
        (lambda: SCDA2d(5), "connectivity", "must be 4 or 8; got 5"),
        (lambda: SpatialPyramidPool2d(()), "levels", "must be a list of 1 to 16 ints, such as (1, 2, 4); got ()"),
        (lambda: SpatialPyramidPool2d((1,) * 17), "levels", "must be a list of 1 to 16 ints, such as (1, 2, 4)"),
        (lambda: SpatialPyramidPool2d((0,)), "levels", "must be from 1 to 64"),
        (lambda: SpatialPyramidPool2d((65,)), "levels", "must be from 1 to 64"),
        (lambda: SpatialPyramidPool2d(mode="sum"), "mode", "must be one of max, avg; got 'sum'"),
        (lambda: output_shape(RMAC2d(), (0, 4, 4)), "tensor.shape", "takes no tensor without channels"),
    ],
)
def test_wrong_parameters_are_refused_in_words(make: Any, field: str, reason: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        make()
    assert caught.value.field == field
    assert reason in caught.value.reason


def test_scda_leaves_out_positions_whose_activation_is_the_mean() -> None:
    # Only the 2 lies above the mean, 1, so that the mean and the maximum of the region are equal.
    sample = np.array([[[0.0, 1.0, 2.0]]], np.float32)
    np.testing.assert_allclose(one(SCDA2d(), sample), [math.sqrt(0.5)] * 2, 1e-6)
