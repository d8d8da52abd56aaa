"""Strips, corners, and combinations of maximum and mean, compared with float64 references that follow the papers."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.layers.test_every_layer import pooled

from poolservice.errors import InvalidRequest
from poolservice.specs import (
    LAYERS,
    AdaptiveCatAvgMaxPool2d,
    CoordinatePool2d,
    CornerPool2d,
    GatedMaxAvgPool2d,
    MixedPool2d,
    PoolFormerPool2d,
    StripPool2d,
    Window,
)
from poolservice_server.operator_shapes import output_shape

CASES = range(25)
# By operator and number of dimensions. The tests call layers with all sorts of parameters.
LAYER: Any = LAYERS


def random_sample(seed: int, dims: int) -> Any:
    generator = np.random.default_rng(seed)
    shape = (int(generator.integers(1, 4)), *generator.integers(1, 12 if dims < 3 else 6, dims))
    return generator.standard_normal(shape).astype(np.float32)


def one(spec: Any, sample: Any) -> Any:
    return pooled(spec, sample[None])[0]


def close(got: Any, expected: Any) -> None:
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_strips_are_the_means_of_rows_and_columns() -> None:
    for seed in CASES:
        sample = random_sample(seed, 2)
        channels, height, width = sample.shape
        rows = [[sum(map(float, sample[c, i])) / width for i in range(height)] for c in range(channels)]
        columns = [[sum(map(float, sample[c, :, j])) / height for j in range(width)] for c in range(channels)]
        expected = [
            [[rows[c][i] + columns[c][j] for j in range(width)] for i in range(height)] for c in range(channels)
        ]
        close(one(StripPool2d(), sample), expected)
        both = [[[value] for value in (*rows[c], *columns[c])] for c in range(channels)]
        close(one(CoordinatePool2d(), sample), both)


def corner(sample: Any, edge: str) -> Any:
    expected = np.empty(sample.shape)
    for c, i, j in np.ndindex(sample.shape):
        seen = {
            "top": sample[c, i:, j],
            "bottom": sample[c, : i + 1, j],
            "left": sample[c, i, j:],
            "right": sample[c, i, : j + 1],
        }[edge]
        expected[c, i, j] = max(seen)
    return expected


@pytest.mark.parametrize("edge", ["top", "bottom", "left", "right"])
def test_a_corner_pool_is_the_maximum_to_an_edge(edge: str) -> None:
    for seed in CASES:
        sample = random_sample(seed, 2)
        np.testing.assert_array_equal(one(CornerPool2d(edge), sample), corner(sample, edge).astype(np.float32))


@pytest.mark.parametrize("edges", list(itertools.product(("top", "bottom"), ("left", "right"))), ids="_".join)
def test_a_corner_is_the_sum_of_two_edges(edges: tuple[str, str]) -> None:
    for seed in CASES:
        sample = random_sample(seed, 2)
        close(one(CornerPool2d("_".join(edges)), sample), corner(sample, edges[0]) + corner(sample, edges[1]))


def test_a_corner_pool_spreads_nan_from_where_it_lies() -> None:
    sample = np.zeros((1, 4, 4), np.float32)
    sample[0, 1, 2] = np.nan
    assert np.isnan(one(CornerPool2d("top"), sample))[0].tolist() == [[False, False, r < 2, False] for r in range(4)]
    assert np.isnan(one(CornerPool2d("right"), sample))[0, 1].tolist() == [False, False, True, True]


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_pool_former_subtracts_the_value_from_the_mean_around_it(dims: int) -> None:
    for seed in CASES:
        sample = random_sample(seed, dims)
        kernel = tuple(2 * int(reach) + 1 for reach in np.random.default_rng(seed).integers(0, 5, dims))
        expected = np.empty(sample.shape)
        for position in np.ndindex(sample.shape):
            near = tuple(
                slice(max(0, place - size // 2), place + size // 2 + 1)
                for place, size in zip(position[1:], kernel, strict=True)
            )
            values = sample[(position[0], *near)].astype(np.float64).reshape(-1)
            expected[position] = sum(values) / len(values) - sample[position]
        close(one(LAYER["pool_former_pool", dims](kernel), sample), expected)


def test_pool_former_is_the_formula_of_the_authors_code() -> None:
    sample = random_sample(3, 2)
    x = torch.from_numpy(sample)
    close(one(PoolFormerPool2d(), sample), F.avg_pool2d(x, 3, 1, 1, count_include_pad=False) - x)


def tiles(channel: Any, sizes: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], Any]]:
    for tile in itertools.product(*map(range, sizes)):
        bounds = [
            slice(math.floor(i * length / size), math.ceil((i + 1) * length / size))
            for i, length, size in zip(tile, channel.shape, sizes, strict=True)
        ]
        yield tile, channel[tuple(bounds)].astype(np.float64).reshape(-1)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_average_and_maximum_of_tiles_are_averaged_or_concatenated(dims: int) -> None:
    for seed in CASES:
        sample = random_sample(seed, dims)
        wanted = tuple(None if size == 0 else int(size) for size in np.random.default_rng(seed).integers(0, 4, dims))
        sizes = tuple(length if size is None else size for size, length in zip(wanted, sample.shape[1:], strict=True))
        mean, maximum = np.empty((len(sample), *sizes)), np.empty((len(sample), *sizes))
        for number, channel in enumerate(sample):
            for tile, values in tiles(channel, sizes):
                mean[(number, *tile)], maximum[(number, *tile)] = sum(values) / len(values), max(values)
        close(one(LAYER["adaptive_avg_max_pool", dims](wanted), sample), (mean + maximum) / 2)
        close(one(LAYER["adaptive_cat_avg_max_pool", dims](wanted), sample), np.concatenate((mean, maximum)))


@pytest.mark.parametrize("size", [0, (0, 3), (None, 0)])
def test_no_tiles_give_no_values(size: Any) -> None:
    sample = random_sample(1, 2)
    shape = (len(sample), *torch.nn.AdaptiveAvgPool2d(size)(torch.from_numpy(sample)).shape[1:])
    assert one(LAYER["adaptive_avg_max_pool", 2](size), sample).shape == shape


def test_averaged_and_concatenated_global_pools_follow_timm() -> None:
    sample = np.array([[[1, 2], [3, 6]], [[0, -4], [8, 0]]], np.float32)
    assert one(LAYER["adaptive_avg_max_pool", 2](), sample).reshape(-1).tolist() == [4.5, 4.5]
    assert one(LAYER["adaptive_cat_avg_max_pool", 2](), sample).reshape(-1).tolist() == [3, 1, 6, 8]


def random_window(seed: int, dims: int) -> tuple[dict[str, Any], tuple[int, ...]]:
    generator = np.random.default_rng(seed)
    kernel = tuple(map(int, generator.integers(1, 4, dims)))
    padding = tuple(int(generator.integers(0, size // 2 + 1)) for size in kernel)
    stride = tuple(map(int, generator.integers(1, 4, dims)))
    window = {"kernel_size": kernel, "stride": stride, "padding": padding, "ceil_mode": bool(generator.integers(2))}
    return window, (3, *(int(size) for size in generator.integers(4, 10 if dims < 3 else 6, dims)))


def windows_of(window: Window, spatial: tuple[int, ...], out: tuple[int, ...]) -> Iterator[Any]:
    """Yield for each window its place, its positions with their places in the kernel, and the divisor of its mean."""
    kernel, stride, padding, _, _ = window
    for place in itertools.product(*map(range, out)):
        inside, divisor = [], 0
        for offset in itertools.product(*map(range, kernel)):
            position = tuple(p * s - pad + o for p, s, pad, o in zip(place, stride, padding, offset, strict=True))
            divisor += all(x < size + pad for x, size, pad in zip(position, spatial, padding, strict=True))
            if all(0 <= x < size for x, size in zip(position, spatial, strict=True)):
                inside.append((position, offset))
        yield place, inside, divisor


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_gated_pool_weighs_maximum_and_mean_by_its_mask(dims: int, per_channel: bool) -> None:
    for seed in CASES:
        window, shape = random_window(seed, dims)
        generator = np.random.default_rng(seed)
        weight = generator.standard_normal((shape[0],) * per_channel + window["kernel_size"])
        spec = LAYER["gated_max_avg_pool", dims](weight=weight, **window)
        sample = generator.standard_normal(shape).astype(np.float32)
        out = output_shape(spec, shape)
        expected = np.empty(out)
        for c in range(shape[0]):
            mask = weight[c] if per_channel else weight
            for place, inside, divisor in windows_of(spec.window, shape[1:], out[1:]):
                values = [float(sample[(c, *position)]) for position, _ in inside]
                gate = sum(mask[offset] * value for (_, offset), value in zip(inside, values, strict=True))
                gate = 1 / (1 + math.exp(-gate))
                expected[(c, *place)] = gate * max(values) + (1 - gate) * sum(values) / divisor
        close(one(spec, sample), expected)


def test_a_gated_pool_with_a_large_mask_follows_the_same_formula() -> None:
    sample = np.random.default_rng(0).standard_normal((2, 30, 30)).astype(np.float32)
    for stride in (1, 20):
        weight = np.random.default_rng(1).standard_normal((11, 10)) / 10
        got = one(GatedMaxAvgPool2d((11, 10), weight, stride), sample)
        seen = sample[0, :11, :10].astype(np.float64)
        gate = 1 / (1 + math.exp(-float((seen * weight).sum())))
        close(got[0, 0, 0], gate * seen.max() + (1 - gate) * seen.mean())


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.uint8, np.int64])
@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
def test_a_channel_is_mixed_with_its_own_alpha(dims: int, dtype: Any, large: bool) -> None:
    alphas = (0.0, 0.3, 1.0)
    for seed in range(1 if large else 4):
        window, shape = random_window(seed, dims)
        if large:
            # These slide over the plane.
            shape = (3, *((3000,), (70, 80), (20, 22, 24))[dims - 1])
            window["kernel_size"], window["stride"] = ((400,), (30, 31), (9, 9, 8))[dims - 1], None
        samples = (np.random.default_rng(seed).standard_normal((4, *shape)) * 40).astype(dtype)
        got = pooled(LAYER["mixed_pool", dims](alpha_per_channel=alphas, **window), samples)
        for channel, alpha in enumerate(alphas):
            expected = pooled(LAYER["mixed_pool", dims](alpha=alpha, **window), samples[:, channel : channel + 1])
            assert got[:, channel : channel + 1].tobytes() == expected.tobytes()
        assert pooled(LAYER["mixed_pool", dims](alpha_per_channel=alphas, **window), samples[:0]).shape[0] == 0


def test_mixed_pool_takes_a_last_window_that_is_partly_filled() -> None:
    sample = np.array([[[1, 2, 3, 4, 5]]], np.float32)
    spec = MixedPool2d((1, 2), alpha=0.25, ceil_mode=True)
    assert one(spec, sample).tolist() == [[[0.25 * 2 + 0.75 * 1.5, 0.25 * 4 + 0.75 * 3.5, 5]]]


@pytest.mark.parametrize(
    ("make", "field", "reason"),
    [
        (lambda: CornerPool2d("left_top"), "mode", "must be one of top, bottom, left, right, top_left"),
        (lambda: PoolFormerPool2d(4), "kernel_size", "must be odd, so that each window has a center; got 4"),
        (lambda: PoolFormerPool2d((3, 0)), "kernel_size", "must be from 1"),
        (lambda: AdaptiveCatAvgMaxPool2d(0), "output_size", "must be from 1"),
        (
            lambda: GatedMaxAvgPool2d(2, [1.0, 2.0]),
            "weight",
            "dimensions, (2, 2) or (C, 2, 2); got shape (2,)",
        ),
        (lambda: GatedMaxAvgPool2d(2, np.ones((2, 3))), "weight", "must have the shape of the window, (2, 2)"),
        (lambda: GatedMaxAvgPool2d(1, [[math.nan]]), "weight", "must be finite"),
        (
            lambda: GatedMaxAvgPool2d(1, [[-1e39]]),
            "weight",
            "must be from -3.403e+38 to 3.403e+38, the range of float32",
        ),
        (
            lambda: output_shape(GatedMaxAvgPool2d(1, np.ones((2, 1, 1))), (3, 4, 4)),
            "weight",
            "has masks for 2 channels, but the input has 3",
        ),
        (
            lambda: LAYER["mixed_pool", 2](2, alpha_per_channel=0.5),
            "alpha_per_channel",
            "must be a list or tuple of one number for each channel; got 0.5; alpha takes one number for all channels",
        ),
        (
            lambda: LAYER["mixed_pool", 2](2, alpha=(0.1, 0.2)),
            "alpha",
            "must be one number; alpha_per_channel takes one for each channel; got (0.1, 0.2)",
        ),
        (lambda: MixedPool2d(2, alpha=-0.5), "alpha", "must be from 0 (the mean) to 1"),
        (lambda: MixedPool2d(2, alpha_per_channel=(0.1, -0.5)), "alpha_per_channel", "must be from 0 (the mean) to 1"),
        (lambda: MixedPool2d(2, alpha_per_channel=[0.5, math.nan]), "alpha_per_channel", "got nan at index 1"),
        (lambda: MixedPool2d(2, alpha=1.0000001), "alpha", "to 1 (the maximum); got 1.0000001"),
        (lambda: MixedPool2d(2, alpha_per_channel=()), "alpha_per_channel", "must have at least one number"),
        (lambda: MixedPool2d(2, alpha_per_channel=(0.1, 2)), "alpha_per_channel", "must be from 0 (the mean) to 1"),
        (lambda: MixedPool2d(2, alpha=0.1, alpha_per_channel=(0.1,)), "alpha_per_channel", "takes the place of alpha"),
        (
            lambda: output_shape(MixedPool2d(2, alpha_per_channel=(0.1, 0.2)), (3, 4, 4)),
            "alpha_per_channel",
            "must have one number for each channel; got 2 for 3 channels",
        ),
        (
            lambda: output_shape(MixedPool2d(2, alpha_per_channel=[0.5]), (4, 4, 4)),
            "alpha_per_channel",
            "must have one number for each channel; got 1 for 4 channels",
        ),
    ],
)
def test_wrong_parameters_are_refused_in_words(make: Any, field: str, reason: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        make()
    assert caught.value.field == field
    assert reason in caught.value.reason
