"""Integers give exact results; NaN, infinities, signed zeros and huge values give torch's."""

import itertools
import math
from collections.abc import Callable
from fractions import Fraction
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from poolservice.errors import InvalidRequest
from poolservice.specs import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveMaxPool2d,
    AvgPool1d,
    AvgPool3d,
    GlobalAvgPool1d,
    GlobalAvgPool2d,
    GlobalMaxPool1d,
    MaxPool1d,
    MaxPool2d,
    MinPool1d,
    MinPool2d,
    MixedPool1d,
    PoolSpec,
)
from poolservice_server.operator_shapes import output_shape
from poolservice_server.pool_stage import PoolStage
from poolservice_server.pooling import pool, run_on_arrays

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
BIG = 2**62 + 1


@pytest.mark.parametrize("dtype", INTEGERS)
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_integers_match_exact_arithmetic(
    dtype: torch.dtype,
    seed: int,
    random_case: Callable[[Random, str], tuple[PoolSpec, tuple[int, ...]]],
    random_values: Callable[..., torch.Tensor],
    exact_windows: Callable[..., list[Any]],
) -> None:
    random = Random(seed)
    for operator in ("max_pool", "min_pool", "adaptive_max_pool", "avg_pool", "adaptive_avg_pool", "mixed_pool"):
        spec, shape = random_case(random, operator)
        planes = random_values(random, shape, dtype).flatten(0, -spec.spatial_dims - 1)
        got, _ = pool(planes, spec)
        smallest, largest = torch.iinfo(dtype).min, torch.iinfo(dtype).max
        for value, window in zip(
            got.flatten().tolist(), exact_windows(planes, spec, tuple(got.shape[1:])), strict=True
        ):
            if operator == "min_pool":
                assert value == (largest if window.minimum is None else window.minimum)
            elif operator.endswith("max_pool"):
                assert value == (smallest if window.maximum is None else window.maximum)
            else:
                alpha = getattr(spec, "alpha", 0.0)
                exact = float((1 - Fraction(alpha)) * window.mean + Fraction(alpha) * (window.maximum or 0))
                assert value == pytest.approx(exact, rel=1e-6, abs=1e-30), f"{spec} of {shape}"
        assert got.dtype == (dtype if operator.endswith(("max_pool", "min_pool")) else torch.float32)


def test_order_statistics_of_int64_are_exact_beyond_the_integers_of_float64() -> None:
    planes = torch.tensor([[BIG, BIG + 1, -BIG, -BIG - 1]])
    assert pool(planes, MaxPool1d(2))[0].tolist() == [[BIG + 1, -BIG]]
    assert pool(planes, MinPool1d(2))[0].tolist() == [[BIG, -BIG - 1]]
    assert pool(planes, GlobalMaxPool1d())[0].tolist() == [[BIG + 1]]
    values, indices = pool(planes.view(1, 2, 2), AdaptiveMaxPool2d((2, 1), return_indices=True))
    assert values.tolist() == [[[BIG + 1], [-BIG]]]
    assert indices is not None
    assert indices.tolist() == [[[1], [2]]]


def test_means_of_int64_neither_overflow_nor_lose_digits() -> None:
    planes = torch.tensor([[BIG, BIG, BIG + 1, -BIG]])
    assert pool(planes, AvgPool1d(2))[0].tolist() == [[float(BIG), 0.5]]
    assert pool(planes, AdaptiveAvgPool1d(2))[0].tolist() == [[float(BIG), 0.5]]
    mean = (2 * BIG + 1) / 4
    assert pool(planes, GlobalAvgPool1d())[0].tolist() == [[mean]]
    # The upper 32 bits sum to -1, the lower ones to slightly less than 2^32.
    cancelling = torch.tensor([[-(2**32), 2**31, 2**31 - 1]])
    assert pool(cancelling, GlobalAvgPool1d())[0].item() == pytest.approx(-1 / 3, rel=1e-6)


def test_minima_of_the_limits_of_an_integer_dtype_are_exact() -> None:
    for dtype in INTEGERS:
        info = torch.iinfo(dtype)
        planes = torch.tensor([[info.min, info.max, info.max, info.max]], dtype=dtype)
        values, indices = pool(planes, MinPool1d(2, return_indices=True))
        assert values.tolist() == [[info.min, info.max]]
        assert indices is not None
        assert indices.tolist() == [[0, 2]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, *INTEGERS])
def test_a_window_of_padding_alone_gives_the_limit_of_the_dtype(dtype: torch.dtype) -> None:
    planes = torch.ones((1, 1, 1), dtype=dtype)
    spec = MaxPool2d((1, 3), padding=(0, 1), dilation=(1, 2))
    with pytest.raises(InvalidRequest):
        output_shape(spec, (1, 1, 1))
    planes = torch.ones((1, 2), dtype=dtype)
    low, high = (-math.inf, math.inf) if dtype.is_floating_point else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    # The window covers the positions -1 and 2.
    assert pool(planes, MaxPool1d(2, padding=1, dilation=3))[0].tolist() == [[low]]
    assert pool(planes, MinPool1d(2, padding=1, dilation=3))[0].tolist() == [[high]]


def test_nan_wins_and_has_the_index_of_the_last_nan() -> None:
    planes = torch.tensor([[math.nan, math.inf, math.nan, 1.0]])
    for spec in (MaxPool1d(4, return_indices=True), MinPool1d(4, return_indices=True)):
        values, indices = pool(planes, spec)
        assert values.isnan().all()
        assert indices is not None
        assert indices.tolist() == [[2]]
    assert pool(planes, GlobalMaxPool1d())[0].isnan().all()


@pytest.mark.parametrize("first", [0.0, -0.0])
def test_the_first_zero_of_a_window_gives_the_sign(first: float) -> None:
    planes = torch.full((1, 40, 40), -first)
    planes[0, ::2, ::2] = first
    for spec in (MaxPool2d(2), MinPool2d(2), MaxPool2d(3, 2), MinPool2d(3, 2)):
        signs = {math.copysign(1, value) for value in pool(planes, spec)[0].flatten().tolist()}
        assert signs == {math.copysign(1, first)}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("side", [7, 224])
def test_the_mean_of_float16_and_bfloat16_is_rounded_once(dtype: torch.dtype, side: int) -> None:
    planes = (torch.rand((3, side, side), generator=torch.Generator().manual_seed(side)) * 4000).to(dtype)
    expected = planes.double().mean((1, 2), keepdim=True).to(dtype)
    for spec in (GlobalAvgPool2d(), AdaptiveAvgPool2d(1)):
        assert torch.equal(pool(planes, spec)[0], expected)


@pytest.mark.parametrize("side", [8, 80])
def test_the_mean_of_infinities_of_both_signs_is_nan_without_a_warning(side: int) -> None:
    planes = torch.ones((3, side, side))
    planes[0, 0, 0] = planes[1, 0, 0] = torch.inf
    planes[0, -1, -1] = -torch.inf
    assert pool(planes, GlobalAvgPool2d())[0].isnan().flatten().tolist() == [True, False, False]
    assert pool(planes, GlobalAvgPool2d())[0].flatten()[1:].tolist() == [torch.inf, 1.0]


def test_the_mean_of_an_empty_plane_is_nan_if_torch_accepts_it() -> None:
    for dtype, result in ((torch.float16, torch.float16), (torch.int64, torch.float32), (torch.uint8, torch.float32)):
        got, _ = pool(torch.zeros((2, 0, 4), dtype=dtype), AdaptiveAvgPool2d(1))
        assert got.shape == (2, 1, 1)
        assert got.dtype == result
        assert got.isnan().all()


def test_mixed_pool_applies_its_formula_to_infinities() -> None:
    planes = torch.tensor([[math.inf, 1.0, -math.inf, 1.0]])
    assert pool(planes, MixedPool1d(2))[0].tolist() == [[math.inf, -math.inf]]
    assert pool(planes, MixedPool1d(2, alpha=0.0))[0][0, 0].isnan()


@pytest.mark.parametrize("kernel", [2**30 - 2, 2**31 - 1])
def test_a_huge_kernel_takes_no_longer_than_a_small_one(kernel: int) -> None:
    planes = torch.arange(12.0).view(1, 12)
    spec = MaxPool1d(kernel, stride=2**31 - 1, ceil_mode=True)
    assert output_shape(spec, (1, 12)) == (1, 1)
    assert pool(planes, spec)[0].tolist() == [[11.0]]
    assert pool(planes, AvgPool1d(kernel, stride=2**31 - 1, ceil_mode=True))[0].tolist() == [[5.5]]


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("spatial", [(9, 8), (30, 41), (300, 301)])
def test_means_of_integer_arrays_are_exact(dtype: torch.dtype, spatial: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(9)
    info = torch.iinfo(torch.int32 if dtype == torch.int64 else dtype)
    # Values of the largest magnitude, and sums that nearly cancel.
    signs = torch.randint(0, 2, (3, *spatial), generator=generator, dtype=torch.bool)
    planes = torch.where(signs, info.min, info.max).to(dtype)
    planes[1] = torch.where(signs[1], info.max, 0)
    for sizes in (1, 2, 7):
        ((means, _),) = run_on_arrays(PoolStage((AdaptiveAvgPool2d(sizes),)), planes.numpy())
        assert means.dtype == np.float32
        for i, j in itertools.product(range(sizes), repeat=2):
            (top, left), (bottom, right) = (
                [index * size // sizes for index, size in zip((i, j), spatial, strict=True)],
                [-(-(index + 1) * size // sizes) for index, size in zip((i, j), spatial, strict=True)],
            )
            for mean, tile in zip(means[:, i, j].tolist(), planes[:, top:bottom, left:right], strict=True):
                exact = sum(tile.flatten().tolist()) / tile.numel()
                assert mean == pytest.approx(exact, rel=1e-6, abs=1e-30)


@pytest.mark.parametrize("count", [49, 1024, 1031, 4096, 4099, 50_176, 150_000])
def test_the_mean_of_equal_floats_is_close_to_them(count: int) -> None:
    for value in (0.1, 0.3, 0.7, 1 / 3, 0.9):
        planes = np.full((2, count), value, np.float32)
        ((means, _),) = run_on_arrays(PoolStage((GlobalAvgPool1d(),)), planes)
        assert means[:, 0].tolist() == pytest.approx([float(planes[0, 0])] * 2, rel=1e-6)


def test_large_windows_of_bytes_are_added_in_more_than_16_bits() -> None:
    planes = np.full((2, 20, 20, 20), 255, np.uint8)
    ((means, _),) = run_on_arrays(PoolStage((AvgPool3d(7, 1),)), planes)
    assert (means == 255).all()
