"""Windows by slices and by gathering against torch's kernels, bit for bit, at sizes where both are exact."""

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
from poolservice_server import shapes
from poolservice_server.pooling import pool, run_on_arrays
from poolservice_server.pooling.interop import to_array, to_tensor
from poolservice_server.pooling.numpy_kernels import gather, operators, signed_zeros, slicing
from poolservice_server.pooling.windows import as_width
from poolservice_server.stages import PoolStage

TASKS = 20
MANY = 32
TYPES = (torch.float32, torch.float64, torch.uint8, torch.int8, torch.int16, torch.int32)
SIDES = {1: 60, 2: 16, 3: 9}


def a_window(random: Random) -> tuple[Window, tuple[int, ...]]:
    """A window without gaps, and planes that it fits into."""
    while True:
        dims = random.randint(1, 3)
        shape = (random.randint(1, 3), *(random.randint(1, SIDES[dims]) for _ in range(dims)))
        kernel = tuple(random.randint(1, 9 if dims < 3 else 4) for _ in range(dims))
        stride = tuple(random.randint(1, 4) for _ in range(dims))
        padding = tuple(random.randint(0, size // 2) for size in kernel)
        window = Window(kernel, stride, padding, (1,) * dims, random.random() < 0.5)
        try:
            shapes.windows(window, shape[1:])
        except InvalidRequest:
            continue
        if max(kernel) > 1 and all(map(int.__ge__, shape[1:], kernel)):
            return window, shape


def layouts(planes: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The same planes one behind the other, interleaved as a picture's channels, and every other of twice as many."""
    interleaved = torch.empty((*planes.shape[1:], len(planes)), dtype=planes.dtype).movedim(-1, 0).copy_(planes)
    return planes, interleaved, planes.repeat_interleave(2, 0)[::2]


def many(planes: torch.Tensor) -> np.ndarray:
    """So many that they are gathered otherwise."""
    return np.tile(planes.numpy(), (MANY, *(1,) * (planes.ndim - 1)))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_extremes_are_torchs_bit_for_bit(
    seed: int,
    some_values: Callable[..., torch.Tensor],
    assert_same_bits: Callable[[torch.Tensor, torch.Tensor], None],
) -> None:
    random = Random(seed)
    for _ in range(TASKS):
        window, shape = a_window(random)
        planes = some_values(random, shape, random.choice(TYPES))
        if planes.is_floating_point():
            planes = planes + 0.0
            assert not signed_zeros.holds_negative_zero(planes.numpy())
        largest = getattr(F, f"max_pool{len(shape) - 1}d")
        floats = planes.double()
        expected = largest(floats, *window).to(planes.dtype)
        expected_least = (-largest(-floats, *window) + 0.0).to(planes.dtype)
        for laid in layouts(planes):
            for combine, extremes in ((np.maximum, expected), (np.minimum, expected_least)):
                assert_same_bits(torch.from_numpy(slicing.window_extreme(laid.numpy(), window, combine)), extremes)
                gathered = gather.window_extreme(many(laid), gather.places(window, shape[1:], False), combine)
                assert_same_bits(torch.from_numpy(gathered), extremes.repeat(MANY, *(1,) * (len(shape) - 1)))
                few = gather.window_extreme(laid.numpy(), gather.places(window, shape[1:], False), combine)
                assert_same_bits(torch.from_numpy(few), extremes)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_sums_are_torchs_bit_for_bit(
    seed: int,
    some_values: Callable[..., torch.Tensor],
    assert_same_bits: Callable[[torch.Tensor, torch.Tensor], None],
) -> None:
    random = Random(seed)
    for _ in range(TASKS):
        window, shape = a_window(random)
        planes = some_values(random, shape, random.choice((torch.float32, torch.float64)))
        # avg_pool1d takes no divisor, and 1 is the only one that leaves a sum as it is.
        flat = len(shape) == 2
        x = planes.unsqueeze(1) if flat else planes
        kernel, stride, padding, _, ceil_mode = as_width(window) if flat else window
        mean = F.avg_pool3d if len(shape) == 4 else F.avg_pool2d
        expected = mean(x, kernel, stride, padding, ceil_mode, divisor_override=1)
        expected = expected.squeeze(1) if flat else expected
        for laid in layouts(planes):
            total = torch.from_numpy(slicing.window_sum(laid.numpy(), window))
            assert_same_bits(total + 0.0, expected)
            places = gather.places(window, shape[1:], True)
            assert_same_bits(torch.from_numpy(gather.window_sum(laid.numpy(), places)) + 0.0, expected)
            gathered = torch.from_numpy(gather.window_sum(many(laid), places))
            assert_same_bits(gathered + 0.0, expected.repeat(MANY, *(1,) * (len(shape) - 1)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_negative_zero_is_found_wherever_it_lies(dtype: type[np.floating[Any]]) -> None:
    planes = np.zeros((2, 5, 5), dtype)
    assert not signed_zeros.holds_negative_zero(planes)
    planes[1, 4, 4] = -0.0
    assert signed_zeros.holds_negative_zero(planes)
    assert signed_zeros.holds_negative_zero(planes.transpose(0, 2, 1))
    assert not signed_zeros.holds_negative_zero(planes[:1])
    assert not signed_zeros.holds_negative_zero(np.zeros((0, 3), dtype))


def test_many_planes_are_pooled_some_at_a_time_and_all_come_back() -> None:
    planes = torch.rand((40, 128, 128), generator=torch.Generator().manual_seed(5))
    window = Window((2, 3), (2, 1), (1, 1), (1, 1), False)
    largest = torch.from_numpy(slicing.window_extreme(planes.numpy(), window, np.maximum))
    assert torch.equal(largest, F.max_pool2d(planes, *window))
    total = torch.from_numpy(slicing.window_sum(planes.numpy(), window))
    assert torch.equal(total.div(6), F.avg_pool2d(planes, *window[:3]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_go_through_wider_floats(
    dtype: torch.dtype, assert_same_bits: Callable[[torch.Tensor, torch.Tensor], None]
) -> None:
    planes = (torch.rand((3, 112, 112), generator=torch.Generator().manual_seed(6)) - 0.5).to(dtype)
    for spec, expected in (
        (MaxPool2d(3, 2, 1), F.max_pool2d(planes, 3, 2, 1)),
        (MinPool2d(3, 2, 1), -F.max_pool2d(-planes, 3, 2, 1)),
        (AvgPool2d(3, 1, 1), F.avg_pool2d(planes, 3, 1, 1)),
    ):
        kernel_for = operators.kernel_for(spec, (112, 112), to_array(planes).dtype)
        assert kernel_for is not None
        pooled = kernel_for(to_array(planes))
        assert pooled is not None
        assert_same_bits(to_tensor(pooled), expected)


@pytest.mark.parametrize("spec", [MaxPool2d(2), MinPool2d(2)], ids=repr)
@pytest.mark.parametrize("side", [8, 128])
def test_the_sign_of_a_zero_is_the_first_ones(
    spec: MaxPool2d | MinPool2d, side: int, assert_same_bits: Callable[[torch.Tensor, torch.Tensor], None]
) -> None:
    generator = torch.Generator().manual_seed(7)
    planes = torch.randint(0, 2, (3, side, side), generator=generator).mul(-2.0).add(1.0).mul(0.0)
    kernel_for = operators.kernel_for(spec, (side, side), np.dtype(np.float32))
    assert kernel_for is not None
    assert kernel_for(planes.numpy()) is None
    first = planes[:, ::2, ::2]
    stage = PoolStage((spec,))
    ((values, _),) = run_on_arrays(stage, planes.numpy())
    assert_same_bits(torch.from_numpy(values), first)
    assert_same_bits(pool(planes, spec)[0], first)
    unsigned = kernel_for((planes + 0.0).numpy())
    assert unsigned is not None
    assert_same_bits(torch.from_numpy(unsigned), torch.zeros_like(first))
