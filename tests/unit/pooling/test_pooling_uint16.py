"""uint16 is pooled as int32, which holds all of its values: order statistics stay uint16, means become float32."""

from collections.abc import Callable
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from poolservice.specs import PoolSpec
from poolservice_server.operator_shapes import result_dtype
from poolservice_server.operators import ORDER_STATISTICS
from poolservice_server.pool_stage import PoolStage
from poolservice_server.pooling import run_on_arrays, run_on_tensors
from poolservice_server.pooling.dispatch import KERNELS

UINT16 = np.dtype(np.uint16)

RandomCase = Callable[..., tuple[PoolSpec, tuple[int, ...]]]


@pytest.mark.parametrize("operator", sorted(KERNELS))
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_uint16_gives_the_results_of_int32(operator: str, seed: int, random_case: RandomCase) -> None:
    random = Random(seed)
    spec, shape = random_case(random, operator, large=random.random() < 0.2)
    planes = np.random.default_rng(seed).integers(0, 2**16, shape, np.uint16, endpoint=False)
    planes = planes.reshape(-1, *shape[-spec.spatial_dims :])
    stage = PoolStage((spec,))
    (expected,) = run_on_arrays(stage, planes.astype(np.int32))
    for values, indices in (
        run_on_arrays(stage, planes)[0],
        [None if one is None else one.numpy() for one in run_on_tensors(stage, torch.from_numpy(planes))[0]],
    ):
        assert values is not None
        assert values.dtype == result_dtype(spec, UINT16)
        np.testing.assert_allclose(
            values, expected.values.astype(values.dtype), rtol=0 if operator in ORDER_STATISTICS else 1e-6
        )
        assert (indices is None) == (expected.indices is None)
        if indices is not None:
            np.testing.assert_array_equal(indices, expected.indices)


@pytest.mark.parametrize("operator", sorted(KERNELS))
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_values_of_16_bit_images_stand_for_0_to_1(operator: str, seed: int, random_case: RandomCase) -> None:
    random = Random(seed)
    spec, shape = random_case(random, operator)
    planes = np.random.default_rng(seed).integers(0, 2**16, shape, np.uint16, endpoint=False)
    planes = planes.reshape(-1, *shape[-spec.spatial_dims :])
    (expected,) = run_on_arrays(PoolStage((spec,)), planes / np.float32(65535))
    stage = PoolStage((spec,), unit_scale=True)
    (of_arrays,) = run_on_arrays(stage, planes)
    ((of_tensors, _),) = run_on_tensors(stage, torch.from_numpy(planes))
    for values in (of_arrays.values, of_tensors.numpy()):
        assert values.dtype == np.float32
        # The means and power sums of float32 round differently in each order of addition.
        tolerance = 0 if operator in ORDER_STATISTICS else 1e-5
        np.testing.assert_allclose(values, expected.values, rtol=tolerance, atol=tolerance)
