"""Windows of any size, by blocks of 2, 4, 8, ... values: torch's extremes and indices, and sums closer than torch's."""

from collections.abc import Callable
from dataclasses import fields
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from poolservice.errors import InvalidRequest
from poolservice.specs import LAYERS, AvgPool1d, AvgPool2d, LPPool2d, MaxPool1d, MaxPool2d, MinPool2d, PoolSpec
from poolservice_server.operator_shapes import output_shape
from poolservice_server.pool_stage import PoolStage, WorkStopped
from poolservice_server.pooling import pool, run_on_arrays
from poolservice_server.pooling.dispatch import sliding_kernel_for
from poolservice_server.pooling.interop import to_array, to_tensor
from poolservice_server.pooling.numpy_kernels import sliding_axis, sliding_extremes, sliding_parts, sliding_sums
from poolservice_server.pooling.run_stage import never

DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
)
ROUNDING = {torch.float32: 1e-6, torch.float64: 1e-14, torch.float16: 2**-10, torch.bfloat16: 2**-7}
LONGEST = {1: 40, 2: 14, 3: 7}
CASES = 30


@pytest.fixture(autouse=True)
def all_windows_slide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pool windows of any size by sliding."""
    monkeypatch.setattr(sliding_extremes, "SLIDING_MIN_VISITS_EXTREME", 0)
    monkeypatch.setattr(sliding_sums, "SLIDING_MIN_VISITS_SUM", (0, 0))
    monkeypatch.setattr(sliding_sums, "SLIDING_MIN_POSITIONS_SUM", (0, 0))


@pytest.fixture(params=["one band", "many bands"])
def pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pool a plane whole, and in bands and blocks of a few values."""
    if request.param == "many bands":
        monkeypatch.setattr(sliding_parts, "SLIDING_BAND_VALUES", 8)
        monkeypatch.setattr(sliding_axis, "SLIDING_BLOCK_VALUES", 16)


def random_case(random: Random, operators: tuple[str, ...]) -> tuple[PoolSpec, tuple[int, ...]]:
    """Return a spec whose windows may be far larger than the planes, and the planes' spatial shape."""
    while True:
        dims = random.randint(1, 3)
        spatial = tuple(random.randint(1, LONGEST[dims]) for _ in range(dims))
        kernel = tuple(random.randint(1, random.choice((4, size + 2, 6 * size))) for size in spatial)
        parameters: dict[str, Any] = {
            "kernel_size": kernel,
            "stride": tuple(random.randint(1, 4) for _ in spatial),
            "padding": tuple(random.randint(0, size // 2) for size in kernel),
            "dilation": tuple(random.choice((1, 1, 2, 3, 5)) for _ in spatial),
            "ceil_mode": random.random() < 0.5,
            "return_indices": random.random() < 0.5,
            "count_include_pad": random.random() < 0.5,
            "divisor_override": random.choice((None, None, 3, -7)),
            "norm_type": random.choice((1.0, 2.0, 3.0, 1.5, 0.5)),
            "alpha": random.choice((0.0, 0.25, 1.0)),
        }
        layer = LAYERS[random.choice(operators), dims]
        own = {field.name for field in fields(layer)}
        try:
            spec = layer(**{name: value for name, value in parameters.items() if name in own})
            output_shape(spec, (1, 1, *spatial))
        except InvalidRequest:
            continue
        return spec, spatial


def slide(spec: PoolSpec, planes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    array = to_array(planes)
    kernel = sliding_kernel_for(spec, array.shape[1:], array.dtype)
    assert kernel is not None
    values, indices = kernel(array, never)
    return to_tensor(np.ascontiguousarray(values)), None if indices is None else torch.from_numpy(indices)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
@pytest.mark.usefixtures("pieces")
def test_extremes_and_indices_of_windows_of_any_size_are_torchs(
    seed: int,
    random_values: Callable[..., torch.Tensor],
    assert_same_bits: Callable[[torch.Tensor, torch.Tensor], None],
) -> None:
    random = Random(seed)
    for _ in range(CASES):
        spec, spatial = random_case(random, ("max_pool", "min_pool"))
        planes = random_values(random, (random.randint(1, 3), *spatial), random.choice(DTYPES))
        expected, expected_indices = pool(planes, spec)
        values, indices = slide(spec, planes)
        assert_same_bits(values, expected)
        assert (indices is None) == (expected_indices is None)
        if indices is not None and expected_indices is not None:
            assert_same_bits(indices, expected_indices)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
@pytest.mark.usefixtures("pieces")
def test_means_and_power_sums_of_windows_of_any_size_round_as_little_as_torchs(
    seed: int, random_values: Callable[..., torch.Tensor]
) -> None:
    random = Random(seed)
    for _ in range(CASES):
        spec, spatial = random_case(random, ("avg_pool", "lp_pool", "mixed_pool"))
        planes = random_values(random, (2, *spatial), random.choice(DTYPES), special=spec.operator != "lp_pool")
        if spec.operator == "lp_pool":
            # The smallest integer has no absolute value.
            planes = planes.abs().clamp(min=0)
        expected, _ = pool(planes, spec)
        values, _ = slide(spec, planes)
        assert values.dtype == expected.dtype
        assert values.shape == expected.shape
        assert torch.equal(values.isnan(), expected.isnan())
        exact, scale = pool(planes.double(), spec)[0], pool(planes.double().nan_to_num(0, 0, 0).abs(), spec)[0].abs()
        finite = exact.isfinite() & (exact.abs() <= torch.finfo(values.dtype).max)
        assert torch.equal(values[~finite].double().nan_to_num(7.0), expected[~finite].double().nan_to_num(7.0))
        error = (values.double() - exact).abs()[finite]
        assert bool((error <= ROUNDING[values.dtype] * scale[finite] + torch.finfo(values.dtype).tiny).all())


def test_sums_of_large_windows_are_closer_to_the_exact_ones_than_torchs() -> None:
    planes = torch.rand((1, 300, 300), generator=torch.Generator().manual_seed(3)) * 100
    spec = AvgPool2d(150, 1)
    exact = pool(planes.double(), spec)[0]
    ours = (slide(spec, planes)[0].double() - exact).abs().max()
    torchs = (pool(planes, spec)[0].double() - exact).abs().max()
    assert ours <= torchs


def test_an_infinity_or_nan_affects_only_the_windows_that_hold_it() -> None:
    planes = torch.ones((1, 1000))
    planes[0, 300], planes[0, 700] = torch.inf, torch.nan
    means = slide(AvgPool1d(100, 1), planes)[0][0]
    held = torch.arange(901)
    assert torch.equal(means.isinf(), (held > 200) & (held <= 300))
    assert torch.equal(means.isnan(), (held > 600) & (held <= 700))
    assert bool((means[means.isfinite()] == 1).all())


@pytest.mark.parametrize("spec", [MaxPool2d(9, 1), MinPool2d(9, 1), MaxPool2d(40, 1, dilation=2)], ids=repr)
def test_planes_of_zeros_of_both_signs_are_never_left_to_torch(
    spec: PoolSpec,
    assert_same_bits: Callable[[torch.Tensor, torch.Tensor], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = torch.Generator().manual_seed(4)
    planes = torch.randint(0, 2, (2, 90, 90), generator=generator).mul(-2.0).add(1.0).mul(0.0)
    expected = pool(planes, spec)[0]
    monkeypatch.setattr(
        "poolservice_server.pooling.run_stage.pool", lambda *_: pytest.fail("torch would visit every window")
    )
    ((values, _),) = run_on_arrays(PoolStage((spec,)), planes.numpy())
    assert_same_bits(torch.from_numpy(values), expected)


@pytest.mark.parametrize("spec", [MaxPool1d(1000, 1), AvgPool1d(1000, 1), MaxPool1d(1000, 1, return_indices=True)])
def test_a_long_plane_is_left_as_soon_as_nobody_waits(spec: PoolSpec) -> None:
    planes = np.zeros((1, 2**20), np.float32)
    answers = iter([False, False, True])
    with pytest.raises(WorkStopped):
        run_on_arrays(PoolStage((spec,)), planes, lambda: next(answers))


@pytest.mark.parametrize("spec", [MaxPool2d(2), AvgPool2d(2), LPPool2d(1.5, 2), MaxPool2d(2, return_indices=True)])
def test_planes_are_pooled_in_groups_that_stop_and_give_the_same_bits(spec: PoolSpec) -> None:
    planes = np.random.default_rng(5).random((60, 128, 128), np.float32)
    stage = PoolStage((spec, spec))
    calls = 0

    def stop() -> bool:
        nonlocal calls
        calls += 1
        return calls > 5

    results = run_on_arrays(stage, planes)
    for values, indices in results:
        for start in range(0, 60, 4):
            some = run_on_arrays(stage, planes[start : start + 4])[0]
            np.testing.assert_array_equal(values[start : start + 4], some.values)
            if indices is not None:
                np.testing.assert_array_equal(indices[start : start + 4], some.indices)
    with pytest.raises(WorkStopped):
        run_on_arrays(stage, planes, stop)
    assert calls == 6
