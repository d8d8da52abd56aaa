"""The operators against torch.nn.functional called directly, over random specs, shapes, types and values."""

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from poolservice.specs import LAYERS, PoolSpec
from poolservice_server.pooling import pool
from poolservice_server.shapes import output_shape

Task = Callable[..., tuple[PoolSpec, tuple[int, ...]]]
Values = Callable[..., torch.Tensor]
TorchPool = Callable[[torch.Tensor, PoolSpec], Any]
SameBits = Callable[[torch.Tensor, torch.Tensor], None]

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32)
ROUNDING = {torch.float32: 1e-6, torch.float64: 1e-14, torch.float16: 2**-10, torch.bfloat16: 2**-7}

# Every how many tasks a large one comes.
LARGE = 5
# An example of hypothesis is a seed for this many tasks, for drawing one costs more than checking it.
TASKS = 14
seeds = st.integers(0, 2**32 - 1)


def as_planes(x: torch.Tensor, spec: PoolSpec) -> torch.Tensor:
    return x.flatten(0, -spec.spatial_dims - 1)


@pytest.mark.parametrize("operator", ["max_pool", "adaptive_max_pool"])
@settings(max_examples=8, deadline=None)
@given(seed=seeds)
def test_maxima_of_floats_are_torchs_bit_for_bit(
    operator: str, seed: int, a_task: Task, some_values: Values, torch_pool: TorchPool, assert_same_bits: SameBits
) -> None:
    random = Random(seed)
    for i in range(TASKS):
        spec, shape = a_task(random, operator, large=i % LARGE == 0)
        x = some_values(random, shape, random.choice(FLOATS))
        expected = torch_pool(x, spec)
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
def test_what_torch_lacks_is_a_maximum_of_torchs(
    operator: str, seed: int, a_task: Task, some_values: Values, torch_pool: TorchPool, assert_same_bits: SameBits
) -> None:
    random = Random(seed)
    for i in range(TASKS):
        spec, shape = a_task(random, operator, large=i % LARGE == 0)
        x = some_values(random, shape, random.choice(FLOATS))
        sign = -1 if "min" in operator else 1
        if operator == "min_pool":
            kin = LAYERS["max_pool", spec.spatial_dims](**vars(spec))
        else:
            kin = LAYERS["adaptive_max_pool", spec.spatial_dims](1)  # type: ignore[call-arg]
        expected = torch_pool(x if sign == 1 else -x, kin)
        values, indices = expected if isinstance(expected, tuple) else (expected, None)
        got, got_indices = pool(as_planes(x, spec), spec)
        assert_same_bits(got, as_planes(values if sign == 1 else -values, spec))
        if indices is not None and got_indices is not None:
            assert_same_bits(got_indices, as_planes(indices, spec))


@pytest.mark.parametrize("operator", ["max_pool", "adaptive_max_pool"])
@settings(max_examples=8, deadline=None)
@given(seed=seeds)
def test_maxima_of_integers_are_torchs_of_doubles(
    operator: str, seed: int, a_task: Task, some_values: Values, torch_pool: TorchPool, assert_same_bits: SameBits
) -> None:
    random = Random(seed)
    for i in range(TASKS):
        spec, shape = a_task(random, operator, large=i % LARGE == 0)
        x = some_values(random, shape, random.choice(WHOLE))
        expected = torch_pool(x.double(), spec)
        values, indices = expected if isinstance(expected, tuple) else (expected, None)
        values = values.clamp(min=torch.iinfo(x.dtype).min).to(x.dtype)
        got, got_indices = pool(as_planes(x, spec), spec)
        assert_same_bits(got, as_planes(values, spec))
        if indices is not None and got_indices is not None:
            assert_same_bits(got_indices, as_planes(indices, spec))


@pytest.mark.parametrize("operator", ["avg_pool", "adaptive_avg_pool", "lp_pool"])
@settings(max_examples=8, deadline=None)
@given(seed=seeds)
def test_means_and_power_sums_of_floats_are_torchs_within_rounding(
    operator: str, seed: int, a_task: Task, some_values: Values, torch_pool: TorchPool
) -> None:
    random = Random(seed)
    for i in range(TASKS):
        spec, shape = a_task(random, operator, large=i % LARGE == 0)
        x = some_values(random, shape, random.choice(FLOATS), odd=operator != "lp_pool")
        exact = torch_pool(x.double(), spec)
        # The rounding of a sum is small beside its terms, which may cancel; a power sum is of powers.
        scale = torch_pool(x.double().nan_to_num(0, 0, 0).abs(), spec).abs()
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
def test_mixed_pool_is_its_formula(seed: int, a_task: Task, some_values: Values, torch_pool: TorchPool) -> None:
    random = Random(seed)
    for i in range(TASKS):
        spec, shape = a_task(random, "mixed_pool", large=i % LARGE == 0)
        x = some_values(random, shape, random.choice(FLOATS))
        window = {name: value for name, value in vars(spec).items() if name != "alpha"}
        alpha = vars(spec)["alpha"]
        largest = torch_pool(x.double(), LAYERS["max_pool", spec.spatial_dims](**window))
        mean = torch_pool(x.double(), LAYERS["avg_pool", spec.spatial_dims](**window))
        exact = as_planes(alpha * largest + (1 - alpha) * mean, spec)
        got, _ = pool(as_planes(x, spec), spec)
        assert got.dtype == x.dtype
        scale = x.double().nan_to_num(0, 0, 0).abs().amax() if x.numel() else 0
        torch.testing.assert_close(
            got.double(), exact, rtol=ROUNDING[x.dtype], atol=float(scale) * ROUNDING[x.dtype], equal_nan=True
        )


@settings(max_examples=8, deadline=None)
@given(seed=seeds)
def test_global_avg_pool_is_the_mean_of_all(seed: int, a_task: Task, some_values: Values) -> None:
    random = Random(seed)
    for i in range(TASKS):
        spec, shape = a_task(random, "global_avg_pool", large=i % LARGE == 0)
        x = as_planes(some_values(random, shape, random.choice(FLOATS), odd=False), spec)
        exact = x.double().flatten(1).mean(1)
        got, _ = pool(x, spec)
        assert got.dtype == x.dtype
        assert got.shape == (len(x), *(1,) * spec.spatial_dims)
        scale = float(x.abs().amax()) if x.numel() else 0
        rounding = ROUNDING[x.dtype]
        torch.testing.assert_close(got.flatten().double(), exact, rtol=rounding, atol=scale * rounding)
