"""The operators give the results of torch.nn.functional, for random specs, shapes, dtypes and values."""

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from poolservice.specs import LAYERS, PoolSpec
from poolservice_server.operator_shapes import output_shape
from poolservice_server.pooling import pool

RandomCase = Callable[..., tuple[PoolSpec, tuple[int, ...]]]
RandomValues = Callable[..., torch.Tensor]
TorchResult = Callable[[torch.Tensor, PoolSpec], Any]
SameBits = Callable[[torch.Tensor, torch.Tensor], None]

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32)
ROUNDING = {torch.float32: 1e-6, torch.float64: 1e-14, torch.float16: 2**-10, torch.bfloat16: 2**-7}

# Every fifth case has large planes.
LARGE = 5
# Drawing an example costs more than checking a case, so each example is the seed of this many cases.
CASES = 14
seeds = st.integers(0, 2**32 - 1)


def as_planes(x: torch.Tensor, spec: PoolSpec) -> torch.Tensor:
    return x.flatten(0, -spec.spatial_dims - 1)


@pytest.mark.parametrize("operator", ["max_pool", "adaptive_max_pool"])
@settings(max_examples=8, deadline=None)
@given(seed=seeds)
def test_maxima_of_floats_have_torchs_bits(
    operator: str,
    seed: int,
    random_case: RandomCase,
    random_values: RandomValues,
    torch_result: TorchResult,
    assert_same_bits: SameBits,
) -> None:
    random = Random(seed)
    for i in range(CASES):
        spec, shape = random_case(random, operator, large=i % LARGE == 0)
        x = random_values(random, shape, random.choice(FLOATS))
        expected = torch_result(x, spec)
        values, indices = expected if isinstance(expected, tuple) else (expected, None)
        got, got_indices = pool(as_planes(x, spec), spec)
        assert_same_bits(got, as_planes(values, spec))
        assert tuple(values.shape) == output_shape(spec, shape)
        assert (got_indices is None) == (indices is None)
        if indices is not None and got_indices is not None:
            assert_same_bits(got_indices, as_planes(indices, spec))


@pytest.mark.parametrize("operator", ["min_pool", "global_max_pool", "global_min_pool"])
@settings(max_examples=8, deadline=None)
@given(seed=seeds)
def test_operators_that_torch_lacks_match_a_maximum_of_torch(
    operator: str,
    seed: int,
    random_case: RandomCase,
    random_values: RandomValues,
    torch_result: TorchResult,
    assert_same_bits: SameBits,
) -> None:
    random = Random(seed)
    for i in range(CASES):
        spec, shape = random_case(random, operator, large=i % LARGE == 0)
        x = random_values(random, shape, random.choice(FLOATS))
        sign = -1 if "min" in operator else 1
        if operator == "min_pool":
            equivalent = LAYERS["max_pool", spec.spatial_dims](**vars(spec))
        else:
            equivalent = LAYERS["adaptive_max_pool", spec.spatial_dims](1)  # type: ignore[call-arg]
        expected = torch_result(x if sign == 1 else -x, equivalent)
        values, indices = expected if isinstance(expected, tuple) else (expected, None)
        got, got_indices = pool(as_planes(x, spec), spec)
        assert_same_bits(got, as_planes(values if sign == 1 else -values, spec))
        if indices is not None and got_indices is not None:
            assert_same_bits(got_indices, as_planes(indices, spec))


@pytest.mark.parametrize("operator", ["max_pool", "adaptive_max_pool"])
@settings(max_examples=8, deadline=None)
@given(seed=seeds)
def test_maxima_of_integers_match_torchs_maxima_of_float64(
    operator: str,
    seed: int,
    random_case: RandomCase,
    random_values: RandomValues,
    torch_result: TorchResult,
    assert_same_bits: SameBits,
) -> None:
    random = Random(seed)
    for i in range(CASES):
        spec, shape = random_case(random, operator, large=i % LARGE == 0)
        x = random_values(random, shape, random.choice(INTEGERS))
        expected = torch_result(x.double(), spec)
        values, indices = expected if isinstance(expected, tuple) else (expected, None)
        values = values.clamp(min=torch.iinfo(x.dtype).min).to(x.dtype)
        got, got_indices = pool(as_planes(x, spec), spec)
        assert_same_bits(got, as_planes(values, spec))
        if indices is not None and got_indices is not None:
            assert_same_bits(got_indices, as_planes(indices, spec))


@pytest.mark.parametrize("operator", ["avg_pool", "adaptive_avg_pool", "lp_pool"])
@settings(max_examples=8, deadline=None)
@given(seed=seeds)
def test_means_and_power_sums_of_floats_match_torch_within_rounding(
    operator: str,
    seed: int,
    random_case: RandomCase,
    random_values: RandomValues,
    torch_result: TorchResult,
) -> None:
    random = Random(seed)
    for i in range(CASES):
        spec, shape = random_case(random, operator, large=i % LARGE == 0)
        x = random_values(random, shape, random.choice(FLOATS), special=operator != "lp_pool")
        exact = torch_result(x.double(), spec)
        # Terms may cancel, so the rounding error is compared with the sum of their magnitudes. lp_pool gets only
        # positive values.
        scale = torch_result(x.double().nan_to_num(0, 0, 0).abs(), spec).abs()
        if operator == "lp_pool":
            x = x.abs()
            exact = scale
        got, indices = pool(as_planes(x, spec), spec)
        assert indices is None
        assert got.dtype == x.dtype
        exact, scale = as_planes(exact, spec), as_planes(scale, spec)
        assert torch.equal(got.isnan(), exact.isnan())
        finite = exact.isfinite() & (exact.abs() <= torch.finfo(x.dtype).max)
        assert torch.equal(got[~finite].double().nan_to_num(7.0), exact[~finite].nan_to_num(7.0))
        error = (got.double() - exact).abs()[finite]
        tiny = torch.finfo(x.dtype).tiny
        assert bool((error <= ROUNDING[x.dtype] * scale[finite] + tiny).all()), f"{spec} of {shape}: {error.max()}"


@settings(max_examples=8, deadline=None)
@given(seed=seeds)
def test_mixed_pool_follows_its_formula(
    seed: int, random_case: RandomCase, random_values: RandomValues, torch_result: TorchResult
) -> None:
    random = Random(seed)
    for i in range(CASES):
        spec, shape = random_case(random, "mixed_pool", large=i % LARGE == 0)
        x = random_values(random, shape, random.choice(FLOATS))
        window = {name: value for name, value in vars(spec).items() if not name.startswith("alpha")}
        alpha = vars(spec)["alpha"]
        maximum = torch_result(x.double(), LAYERS["max_pool", spec.spatial_dims](**window))
        mean = torch_result(x.double(), LAYERS["avg_pool", spec.spatial_dims](**window))
        exact = as_planes(alpha * maximum + (1 - alpha) * mean, spec)
        got, _ = pool(as_planes(x, spec), spec)
        assert got.dtype == x.dtype
        scale = x.double().nan_to_num(0, 0, 0).abs().amax() if x.numel() else 0
        torch.testing.assert_close(
            got.double(), exact, rtol=ROUNDING[x.dtype], atol=float(scale) * ROUNDING[x.dtype], equal_nan=True
        )


@settings(max_examples=8, deadline=None)
@given(seed=seeds)
def test_global_avg_pool_is_the_mean_of_the_plane(
    seed: int, random_case: RandomCase, random_values: RandomValues
) -> None:
    random = Random(seed)
    for i in range(CASES):
        spec, shape = random_case(random, "global_avg_pool", large=i % LARGE == 0)
        x = as_planes(random_values(random, shape, random.choice(FLOATS), special=False), spec)
        exact = x.double().flatten(1).mean(1)
        got, _ = pool(x, spec)
        assert got.dtype == x.dtype
        assert got.shape == (len(x), *(1,) * spec.spatial_dims)
        scale = float(x.abs().amax()) if x.numel() else 0
        rounding = ROUNDING[x.dtype]
        torch.testing.assert_close(got.flatten().double(), exact, rtol=rounding, atol=scale * rounding)
