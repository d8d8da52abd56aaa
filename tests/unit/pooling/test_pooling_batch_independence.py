"""A plane's answer is the same, bit for bit, alone and in company, on one thread and two, however it lies in memory."""

from collections.abc import Callable, Iterator
from random import Random

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from poolservice.specs import (
    OPERATORS,
    AdaptiveAvgPool2d,
    AvgPool1d,
    AvgPool2d,
    GlobalAvgPool1d,
    GlobalAvgPool2d,
    GlobalAvgPool3d,
    LPPool2d,
    MaxPool2d,
    MinPool2d,
    MinPool3d,
    PoolSpec,
)
from poolservice_server.pooling import pool, run_on_arrays
from poolservice_server.pooling.interop import to_array, to_tensor
from poolservice_server.pooling.numpy_kernels import operators
from poolservice_server.stages import PoolStage

FLOATS = (torch.float32, torch.float16)
TYPES = (
    *FLOATS,
    torch.float64,
    torch.bfloat16,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
)
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.uint8])
@pytest.mark.parametrize(
    ("spec", "spatial"),
    [
        (MaxPool2d(2), (60, 62)),
        (MaxPool2d(3, 2, 1), (61, 62)),
        (MaxPool2d(5, 1, 2), (60, 61)),
        (MinPool2d((3, 2), 2, 1, ceil_mode=True), (60, 62)),
        (MinPool3d(2), (8, 20, 30)),
        (AvgPool2d(2), (120, 122)),
        (AvgPool2d(3, 1, 1), (60, 61)),
        (AvgPool2d(2, divisor_override=3), (120, 122)),
        (AvgPool1d(3, 1, 1), (3000,)),
        (GlobalAvgPool1d(), (1024,)),
        (GlobalAvgPool2d(), (7, 7)),
        (GlobalAvgPool3d(), (2, 3, 5)),
    ],
    ids=repr,
)
def test_numpy_alone_gives_the_same_bits_however_the_planes_lie(
    spec: PoolSpec,
    spatial: tuple[int, ...],
    dtype: torch.dtype,
    some_values: Callable[..., torch.Tensor],
    assert_same_bits: Callable[[torch.Tensor, torch.Tensor], None],
) -> None:
    tensor = some_values(Random(repr(spec)), (16, *spatial), dtype, odd=False) + (dtype != torch.uint8)
    planes = tensor.numpy()
    expected, _ = pool(tensor, spec)
    received = np.ndarray(planes.shape, planes.dtype, bytes(3) + planes.tobytes(), 3)
    interleaved = np.moveaxis(np.ascontiguousarray(np.moveaxis(planes, 0, -1)), -1, 0)
    kernel_for = operators.kernel_for(spec, spatial, planes.dtype)
    assert kernel_for is not None
    for laid in (planes, received, interleaved):
        answer = kernel_for(laid)
        assert answer is not None
        assert answer.flags.c_contiguous
        assert_same_bits(torch.from_numpy(answer), expected)
        # Of one plane, windows may be too few to be worth it.
        alone = kernel_for(laid[5:6])
        if alone is not None:
            assert_same_bits(torch.from_numpy(alone), expected[5:6])


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("large", [False, True])
def test_over_arrays_company_and_strides_change_nothing_and_the_answer_is_torchs(
    operator: str,
    large: bool,
    a_task: Callable[..., tuple[PoolSpec, tuple[int, ...]]],
    some_values: Callable[..., torch.Tensor],
    assert_same_bits: Callable[[torch.Tensor, torch.Tensor], None],
) -> None:
    random = Random(f"arrays {operator} {large}")
    for _ in range(8 if large else 60):
        spec, shape = a_task(random, operator, large=large)
        spatial = shape[-spec.spatial_dims :]
        tensor = some_values(random, (40, *spatial), random.choice(TYPES))
        planes = to_array(tensor)
        stage = PoolStage((spec,))
        ((together, indices),) = run_on_arrays(stage, planes)
        assert together.flags.c_contiguous
        expected, expected_indices = pool(tensor, spec)
        # Whole planes and tiles are added in an order of our own.
        if operator.endswith("_avg_pool"):
            rounding = {torch.float16: 2e-3, torch.bfloat16: 2e-2}.get(tensor.dtype, 2e-6)
            torch.testing.assert_close(to_tensor(together), expected, rtol=rounding, atol=rounding * 40, equal_nan=True)
        else:
            assert_same_bits(to_tensor(together), expected)
        assert (indices is None) == (expected_indices is None)
        if indices is not None and expected_indices is not None:
            assert_same_bits(torch.from_numpy(indices), expected_indices)
        interleaved = np.moveaxis(np.ascontiguousarray(np.moveaxis(planes, 0, -1)), -1, 0)
        for laid, picked in (
            (interleaved, slice(None)),
            (planes[:1], slice(1)),
            (planes[3:6], slice(3, 6)),
            (planes[::2], slice(None, None, 2)),
            (planes[:0], slice(0)),
        ):
            ((values, _),) = run_on_arrays(stage, laid)
            assert_same_bits(to_tensor(values), to_tensor(together[picked]))


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("norm_type", [0.5, 1.7, 3.0, 7.0, -1.5])
def test_a_power_sum_is_the_same_wherever_its_plane_lies(norm_type: float, dtype: torch.dtype) -> None:
    # 9 values a plane: each plane begins at another place among those that are computed at a time.
    planes = torch.rand((4000, 6, 6), generator=torch.Generator().manual_seed(1)).add_(0.1).to(dtype)
    spec = LPPool2d(norm_type, 2)
    torch.set_num_threads(1)
    together, _ = pool(planes, spec)
    torch.set_num_threads(2)
    assert torch.equal(pool(planes, spec)[0], together)
    for at in range(70):
        assert torch.equal(pool(planes[at : at + 1], spec)[0], together[at : at + 1])
        assert torch.equal(pool(planes[at:], spec)[0], together[at:])
    if dtype != torch.float16:
        torch.testing.assert_close(together, F.lp_pool2d(planes, norm_type, 2), rtol=2e-6, atol=0)
