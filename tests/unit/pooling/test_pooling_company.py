"""A plane's answer is the same, bit for bit, alone and in company, on one thread and two, however it lies in memory."""

from collections.abc import Callable, Iterator
from random import Random

import pytest
import torch

from poolservice.specs import OPERATORS, AdaptiveAvgPool2d, GlobalAvgPool2d, PoolSpec
from poolservice_server.pooling import pool

FLOATS = (torch.float32, torch.float16)
TASKS = 12


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("large", [False, True])
def test_company_threads_and_strides_change_nothing(
    operator: str,
    large: bool,
    a_task: Callable[..., tuple[PoolSpec, tuple[int, ...]]],
    some_values: Callable[..., torch.Tensor],
    assert_same_bits: Callable[[torch.Tensor, torch.Tensor], None],
) -> None:
    random = Random(f"{operator} {large}")
    for _ in range(TASKS if not large else TASKS // 3):
        spec, shape = a_task(random, operator, large=large)
        spatial = shape[-spec.spatial_dims :]
        many = some_values(random, (64, *spatial), random.choice((*FLOATS, torch.uint8, torch.int32)))
        torch.set_num_threads(1)
        together, indices = pool(many, spec)
        assert together.is_contiguous()
        torch.set_num_threads(2)
        assert_same_bits(pool(many, spec)[0], together)
        beside = torch.empty((*spatial, 64), dtype=many.dtype).movedim(-1, 0).copy_(many)
        got, got_indices = pool(beside, spec)
        assert_same_bits(got, together)
        assert got.is_contiguous()
        if indices is not None and got_indices is not None:
            assert_same_bits(got_indices, indices)
        for at in (0, 1, 63):
            assert_same_bits(pool(many[at : at + 1], spec)[0], together[at : at + 1])
        assert_same_bits(pool(many[3:6], spec)[0], together[3:6])
        assert_same_bits(pool(many[::2], spec)[0], together[::2])


@pytest.mark.parametrize("side", [181, 224])
@pytest.mark.parametrize("dtype", FLOATS)
def test_the_mean_of_a_plane_that_torch_would_split_among_threads(side: int, dtype: torch.dtype) -> None:
    planes = torch.randn((5, side, side), generator=torch.Generator().manual_seed(side)).to(dtype)
    for spec in (GlobalAvgPool2d(), AdaptiveAvgPool2d(1)):
        torch.set_num_threads(1)
        together, _ = pool(planes, spec)
        torch.set_num_threads(2)
        alone = torch.cat([pool(planes[i : i + 1], spec)[0] for i in range(5)])
        assert torch.equal(alone, together)
        exact = planes.double().mean((1, 2), keepdim=True)
        rounding = 1e-6 if dtype == torch.float32 else 2**-10
        torch.testing.assert_close(together.double(), exact, rtol=rounding, atol=rounding)
