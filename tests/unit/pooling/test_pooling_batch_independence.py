"""The result of a plane has the same bits for any batch-mates, number of threads and memory layout."""

from collections.abc import Callable, Iterator
from random import Random

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from poolservice.specs import (
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
from poolservice_server.pool_stage import PoolStage
from poolservice_server.pooling import dispatch, pool, run_on_arrays
from poolservice_server.pooling.dispatch import KERNELS, kernel_for
from poolservice_server.pooling.interop import to_array, to_tensor

FLOATS = (torch.float32, torch.float16)
DTYPES = (
    *FLOATS,
    torch.float64,
    torch.bfloat16,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
)
CASES = 12


@pytest.fixture(autouse=True)
def restored_thread_count() -> Iterator[None]:
    """Restore the number of torch's threads after each test."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("operator", KERNELS)
@pytest.mark.parametrize("large", [False, True])
def test_tensors_give_the_same_bits_for_any_batch_thread_count_and_strides(
    operator: str,
    large: bool,
    random_case: Callable[..., tuple[PoolSpec, tuple[int, ...]]],
    random_values: Callable[..., torch.Tensor],
    assert_same_bits: Callable[[torch.Tensor, torch.Tensor], None],
) -> None:
    random = Random(f"{operator} {large}")
    for _ in range(CASES if not large else CASES // 3):
        spec, shape = random_case(random, operator, large=large)
        spatial = shape[-spec.spatial_dims :]
        planes = random_values(random, (64, *spatial), random.choice((*FLOATS, torch.uint8, torch.int32)))
        torch.set_num_threads(1)
        batched, indices = pool(planes, spec)
        assert batched.is_contiguous()
        torch.set_num_threads(2)
        assert_same_bits(pool(planes, spec)[0], batched)
        interleaved = torch.empty((*spatial, 64), dtype=planes.dtype).movedim(-1, 0).copy_(planes)
        got, got_indices = pool(interleaved, spec)
        assert_same_bits(got, batched)
        assert got.is_contiguous()
        if indices is not None and got_indices is not None:
            assert_same_bits(got_indices, indices)
        for i in (0, 1, 63):
            assert_same_bits(pool(planes[i : i + 1], spec)[0], batched[i : i + 1])
        assert_same_bits(pool(planes[3:6], spec)[0], batched[3:6])
        assert_same_bits(pool(planes[::2], spec)[0], batched[::2])


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
def test_numpy_kernels_give_torchs_bits_for_any_memory_layout(
    spec: PoolSpec,
    spatial: tuple[int, ...],
    dtype: torch.dtype,
    random_values: Callable[..., torch.Tensor],
    assert_same_bits: Callable[[torch.Tensor, torch.Tensor], None],
) -> None:
    tensor = random_values(Random(repr(spec)), (16, *spatial), dtype, special=False) + (dtype != torch.uint8)
    planes = tensor.numpy()
    expected, _ = pool(tensor, spec)
    received = np.ndarray(planes.shape, planes.dtype, bytes(3) + planes.tobytes(), 3)
    interleaved = np.moveaxis(np.ascontiguousarray(np.moveaxis(planes, 0, -1)), -1, 0)
    kernel = kernel_for(spec, spatial, planes.dtype)
    assert kernel is not None
    for in_layout in (planes, received, interleaved):
        values = kernel(in_layout)
        assert values is not None
        assert values.flags.c_contiguous
        assert_same_bits(torch.from_numpy(values), expected)
        # For a single plane torch may be faster, so that the kernel declines.
        unbatched = kernel(in_layout[5:6])
        if unbatched is not None:
            assert_same_bits(torch.from_numpy(unbatched), expected[5:6])


@pytest.mark.parametrize("operator", KERNELS)
@pytest.mark.parametrize("large", [False, True])
def test_arrays_give_torchs_result_with_the_same_bits_for_any_batch_and_strides(
    operator: str,
    large: bool,
    random_case: Callable[..., tuple[PoolSpec, tuple[int, ...]]],
    random_values: Callable[..., torch.Tensor],
    assert_same_bits: Callable[[torch.Tensor, torch.Tensor], None],
) -> None:
    random = Random(f"arrays {operator} {large}")
    for _ in range(8 if large else 60):
        spec, shape = random_case(random, operator, large=large)
        spatial = shape[-spec.spatial_dims :]
        tensor = random_values(random, (40, *spatial), random.choice(DTYPES))
        planes = to_array(tensor)
        stage = PoolStage((spec,))
        ((batched, indices),) = run_on_arrays(stage, planes)
        assert batched.flags.c_contiguous
        expected, expected_indices = pool(tensor, spec)
        # Some kernels add in another order than torch.
        if not dispatch.KERNELS[operator].torch_bits:
            rounding = {torch.float16: 2e-3, torch.bfloat16: 2e-2}.get(tensor.dtype, 2e-6)
            torch.testing.assert_close(to_tensor(batched), expected, rtol=rounding, atol=rounding * 40, equal_nan=True)
        else:
            assert_same_bits(to_tensor(batched), expected)
        assert (indices is None) == (expected_indices is None)
        if indices is not None and expected_indices is not None:
            assert_same_bits(torch.from_numpy(indices), expected_indices)
        interleaved = np.moveaxis(np.ascontiguousarray(np.moveaxis(planes, 0, -1)), -1, 0)
        for some_planes, selected in (
            (interleaved, slice(None)),
            (planes[:1], slice(1)),
            (planes[3:6], slice(3, 6)),
            (planes[::2], slice(None, None, 2)),
            (planes[:0], slice(0)),
        ):
            ((values, _),) = run_on_arrays(stage, some_planes)
            assert_same_bits(to_tensor(values), to_tensor(batched[selected]))


@pytest.mark.parametrize("side", [181, 224])
@pytest.mark.parametrize("dtype", FLOATS)
def test_the_mean_of_a_large_plane_does_not_depend_on_the_thread_count(side: int, dtype: torch.dtype) -> None:
    planes = torch.randn((5, side, side), generator=torch.Generator().manual_seed(side)).to(dtype)
    for spec in (GlobalAvgPool2d(), AdaptiveAvgPool2d(1)):
        torch.set_num_threads(1)
        batched, _ = pool(planes, spec)
        torch.set_num_threads(2)
        unbatched = torch.cat([pool(planes[i : i + 1], spec)[0] for i in range(5)])
        assert torch.equal(unbatched, batched)
        exact = planes.double().mean((1, 2), keepdim=True)
        rounding = 1e-6 if dtype == torch.float32 else 2**-10
        torch.testing.assert_close(batched.double(), exact, rtol=rounding, atol=rounding)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("norm_type", [0.5, 1.7, 3.0, 7.0, -1.5])
def test_a_power_sum_does_not_depend_on_the_position_of_its_plane(norm_type: float, dtype: torch.dtype) -> None:
    # 9 values per plane, so each plane starts at another position in a vector of values.
    planes = torch.rand((4000, 6, 6), generator=torch.Generator().manual_seed(1)).add_(0.1).to(dtype)
    spec = LPPool2d(norm_type, 2)
    torch.set_num_threads(1)
    batched, _ = pool(planes, spec)
    torch.set_num_threads(2)
    assert torch.equal(pool(planes, spec)[0], batched)
    for i in range(70):
        assert torch.equal(pool(planes[i : i + 1], spec)[0], batched[i : i + 1])
        assert torch.equal(pool(planes[i:], spec)[0], batched[i:])
    if dtype != torch.float16:
        torch.testing.assert_close(batched, F.lp_pool2d(planes, norm_type, 2), rtol=2e-6, atol=0)
