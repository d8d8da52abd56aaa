"""The window kernels, by slices and by gathering, give torch's bits."""

from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from poolservice.errors import InvalidRequest
from poolservice.specs import AvgPool2d, MaxPool2d, MinPool2d, Window
from poolservice_server import operator_shapes
from poolservice_server.kernel_thresholds import GATHER_MANY_PLANES
from poolservice_server.pool_stage import PoolStage
from poolservice_server.pooling import pool, run_on_arrays
from poolservice_server.pooling.dispatch import kernel_for
from poolservice_server.pooling.interop import to_array, to_tensor
from poolservice_server.pooling.numpy_kernels import gather, shifted_slices, signed_zeros
from poolservice_server.pooling.window_geometry import as_2d

CASES = 20
# From this number of planes on, another variant of gathering is used.
MANY_PLANES = GATHER_MANY_PLANES
DTYPES = (torch.float32, torch.float64, torch.uint8, torch.int8, torch.int16, torch.int32)
SIDES = {1: 60, 2: 16, 3: 9}


def random_window(random: Random) -> tuple[Window, tuple[int, ...]]:
    """Return a window without dilation, and the shape of planes that it fits into."""
    while True:
        dims = random.randint(1, 3)
        shape = (random.randint(1, 3), *(random.randint(1, SIDES[dims]) for _ in range(dims)))
        kernel = tuple(random.randint(1, 9 if dims < 3 else 4) for _ in range(dims))
        stride = tuple(random.randint(1, 4) for _ in range(dims))
        padding = tuple(random.randint(0, size // 2) for size in kernel)
        window = Window(kernel, stride, padding, (1,) * dims, random.random() < 0.5)
        try:
            operator_shapes.window_grid(window, shape[1:])
        except InvalidRequest:
            continue
        if max(kernel) > 1 and all(map(int.__ge__, shape[1:], kernel)):
            return window, shape


def layouts(planes: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return the planes contiguous, interleaved as an image's channels, and as every other plane of twice as many."""
    interleaved = torch.empty((*planes.shape[1:], len(planes)), dtype=planes.dtype).movedim(-1, 0).copy_(planes)
    return planes, interleaved, planes.repeat_interleave(2, 0)[::2]


def repeated(planes: torch.Tensor) -> np.ndarray:
    """Return the planes often enough for the other variant of gathering."""
    return np.tile(planes.numpy(), (MANY_PLANES, *(1,) * (planes.ndim - 1)))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_extremes_have_torchs_bits(
    seed: int,
    random_values: Callable[..., torch.Tensor],
    assert_same_bits: Callable[[torch.Tensor, torch.Tensor], None],
) -> None:
    random = Random(seed)
    for _ in range(CASES):
        window, shape = random_window(random)
        planes = random_values(random, shape, random.choice(DTYPES))
        if planes.is_floating_point():
            planes = planes + 0.0
            assert not signed_zeros.holds_negative_zero(planes.numpy())
        max_pool = getattr(F, f"max_pool{len(shape) - 1}d")
        floats = planes.double()
        expected_maxima = max_pool(floats, *window).to(planes.dtype)
        expected_minima = (-max_pool(-floats, *window) + 0.0).to(planes.dtype)
        for in_layout in layouts(planes):
            for combine, extremes in ((np.maximum, expected_maxima), (np.minimum, expected_minima)):
                assert_same_bits(
                    torch.from_numpy(shifted_slices.window_extreme(in_layout.numpy(), window, combine)), extremes
                )
                gathered = gather.window_extreme(
                    repeated(in_layout), gather.window_indices(window, shape[1:], False), combine
                )
                assert_same_bits(torch.from_numpy(gathered), extremes.repeat(MANY_PLANES, *(1,) * (len(shape) - 1)))
                few = gather.window_extreme(in_layout.numpy(), gather.window_indices(window, shape[1:], False), combine)
                assert_same_bits(torch.from_numpy(few), extremes)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_sums_have_torchs_bits(
    seed: int,
    random_values: Callable[..., torch.Tensor],
    assert_same_bits: Callable[[torch.Tensor, torch.Tensor], None],
) -> None:
    random = Random(seed)
    for _ in range(CASES):
        window, shape = random_window(random)
        planes = random_values(random, shape, random.choice((torch.float32, torch.float64)))
        # avg_pool1d accepts no divisor, and only the divisor 1 makes the mean a sum.
        flat = len(shape) == 2
        x = planes.unsqueeze(1) if flat else planes
        kernel, stride, padding, _, ceil_mode = as_2d(window) if flat else window
        mean = F.avg_pool3d if len(shape) == 4 else F.avg_pool2d
        expected = mean(x, kernel, stride, padding, ceil_mode, divisor_override=1)
        expected = expected.squeeze(1) if flat else expected
        for in_layout in layouts(planes):
            total = torch.from_numpy(shifted_slices.window_sum(in_layout.numpy(), window))
            assert_same_bits(total + 0.0, expected)
            indices = gather.window_indices(window, shape[1:], True)
            assert_same_bits(torch.from_numpy(gather.window_sum(in_layout.numpy(), indices)) + 0.0, expected)
            gathered = torch.from_numpy(gather.window_sum(repeated(in_layout), indices))
            assert_same_bits(gathered + 0.0, expected.repeat(MANY_PLANES, *(1,) * (len(shape) - 1)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_negative_zero_is_found_at_any_position(dtype: type[np.floating[Any]]) -> None:
    planes = np.zeros((2, 5, 5), dtype)
    assert not signed_zeros.holds_negative_zero(planes)
    planes[1, 4, 4] = -0.0
    assert signed_zeros.holds_negative_zero(planes)
    assert signed_zeros.holds_negative_zero(planes.transpose(0, 2, 1))
    assert not signed_zeros.holds_negative_zero(planes[:1])
    assert not signed_zeros.holds_negative_zero(np.zeros((0, 3), dtype))


def test_planes_that_are_pooled_in_several_passes_are_all_returned() -> None:
    planes = torch.rand((40, 128, 128), generator=torch.Generator().manual_seed(5))
    window = Window((2, 3), (2, 1), (1, 1), (1, 1), False)
    maxima = torch.from_numpy(shifted_slices.window_extreme(planes.numpy(), window, np.maximum))
    assert torch.equal(maxima, F.max_pool2d(planes, *window))
    total = torch.from_numpy(shifted_slices.window_sum(planes.numpy(), window))
    assert torch.equal(total.div(6), F.avg_pool2d(planes, *window[:3]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_float16_and_bfloat16_windows_have_torchs_bits(
    dtype: torch.dtype, assert_same_bits: Callable[[torch.Tensor, torch.Tensor], None]
) -> None:
    planes = (torch.rand((3, 112, 112), generator=torch.Generator().manual_seed(6)) - 0.5).to(dtype)
    for spec, expected in (
        (MaxPool2d(3, 2, 1), F.max_pool2d(planes, 3, 2, 1)),
        (MinPool2d(3, 2, 1), -F.max_pool2d(-planes, 3, 2, 1)),
        (AvgPool2d(3, 1, 1), F.avg_pool2d(planes, 3, 1, 1)),
    ):
        kernel = kernel_for(spec, (112, 112), to_array(planes).dtype)
        assert kernel is not None
        pooled = kernel(to_array(planes))
        assert pooled is not None
        assert_same_bits(to_tensor(pooled), expected)


@pytest.mark.parametrize("spec", [MaxPool2d(2), MinPool2d(2)], ids=repr)
@pytest.mark.parametrize("side", [8, 128])
def test_a_zero_has_the_sign_of_the_first_zero_in_its_window(
    spec: MaxPool2d | MinPool2d, side: int, assert_same_bits: Callable[[torch.Tensor, torch.Tensor], None]
) -> None:
    generator = torch.Generator().manual_seed(7)
    planes = torch.randint(0, 2, (3, side, side), generator=generator).mul(-2.0).add(1.0).mul(0.0)
    kernel = kernel_for(spec, (side, side), np.dtype(np.float32))
    assert kernel is not None
    assert kernel(planes.numpy()) is None
    first = planes[:, ::2, ::2]
    stage = PoolStage((spec,))
    ((values, _),) = run_on_arrays(stage, planes.numpy())
    assert_same_bits(torch.from_numpy(values), first)
    assert_same_bits(pool(planes, spec)[0], first)
    unsigned = kernel((planes + 0.0).numpy())
    assert unsigned is not None
    assert_same_bits(torch.from_numpy(unsigned), torch.zeros_like(first))
