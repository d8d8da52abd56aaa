"""A stage runs all of its specs, and pools the bytes of an image as the floats from 0 to 1 that they stand for."""

from collections.abc import Callable
from random import Random

import numpy as np
import pytest
import torch

from poolservice.specs import (
    AvgPool2d,
    FractionalMaxPool2d,
    GlobalAvgPool2d,
    GlobalMaxPool2d,
    LPPool2d,
    MaxPool1d,
    MaxPool2d,
    MinPool1d,
    MixedPool2d,
    PoolSpec,
    Sequential,
    SoftPool2d,
)
from poolservice_server.operators import ORDER_STATISTICS
from poolservice_server.pool_stage import PoolStage, WorkStopped
from poolservice_server.pooling import pool, run_on_arrays, run_on_tensors
from poolservice_server.pooling.dispatch import KERNELS, kernel_for


def as_floats(image: torch.Tensor) -> torch.Tensor:
    """Return what torchvision's ToTensor makes of an image."""
    return image.to(torch.float32).div(255)


@pytest.mark.parametrize("operator", KERNELS)
@pytest.mark.parametrize("large", [False, True])
def test_the_bytes_of_an_image_pool_as_the_floats_that_they_stand_for(
    operator: str,
    large: bool,
    random_case: Callable[..., tuple[PoolSpec, tuple[int, ...]]],
    random_values: Callable[..., torch.Tensor],
    assert_same_bits: Callable[[torch.Tensor, torch.Tensor], None],
) -> None:
    random = Random(f"{operator} {large}")
    for _ in range(8 if large else 40):
        spec, shape = random_case(random, operator, large=large)
        image = random_values(random, shape, torch.uint8).flatten(0, -spec.spatial_dims - 1)
        interleaved = torch.empty((*image.shape[1:], len(image)), dtype=torch.uint8).movedim(-1, 0).copy_(image)
        expected, expected_indices = pool(as_floats(image), spec)
        for planes in (image, interleaved):
            [(values, indices)] = run_on_tensors(PoolStage((spec,), unit_scale=True), planes)
            if operator in ORDER_STATISTICS:
                assert_same_bits(values, expected)
            else:
                torch.testing.assert_close(values, expected, rtol=1e-6, atol=1e-7)
            assert (indices is None) == (expected_indices is None)
            if indices is not None and expected_indices is not None:
                assert_same_bits(indices, expected_indices)


def test_a_window_of_padding_alone_is_infinite_for_an_image() -> None:
    image = torch.tensor([[7, 9]], dtype=torch.uint8)
    specs = (MaxPool1d(2, padding=1, dilation=3), MinPool1d(2, padding=1, dilation=3))
    (maximum, _), (minimum, _) = run_on_tensors(PoolStage(specs, unit_scale=True), image)
    assert maximum.tolist() == [[-torch.inf]]
    assert minimum.tolist() == [[torch.inf]]


def test_results_are_in_the_order_of_the_specs() -> None:
    planes = torch.rand((3, 9, 8), generator=torch.Generator().manual_seed(1))
    specs = (GlobalAvgPool2d(), LPPool2d(3, 3), MaxPool2d(2, return_indices=True), AvgPool2d(2))
    for (values, indices), spec in zip(run_on_tensors(PoolStage(specs), planes), specs, strict=True):
        expected, expected_indices = pool(planes, spec)
        assert torch.equal(values, expected)
        assert (indices is None) == (expected_indices is None)


@pytest.mark.parametrize("unit_scale", [False, True])
def test_arrays_give_the_results_of_tensors_in_the_order_of_the_specs(
    unit_scale: bool, assert_same_bits: Callable[[torch.Tensor, torch.Tensor], None]
) -> None:
    planes = torch.randint(1, 256, (3, 128, 130), dtype=torch.uint8, generator=torch.Generator().manual_seed(8))
    planes = planes if unit_scale else as_floats(planes)
    specs = (MaxPool2d(2), LPPool2d(3, 3), GlobalAvgPool2d(), MaxPool2d(2, return_indices=True), MaxPool2d(3, 2, 1))
    kernels = [kernel_for(spec, (128, 130), planes.numpy().dtype) for spec in specs]
    assert [kernel is None for kernel in kernels] == [False, True, False, True, False]
    stage = PoolStage(specs, unit_scale)
    for (values, indices), (expected, expected_indices) in zip(
        run_on_arrays(stage, planes.numpy()), run_on_tensors(stage, planes), strict=True
    ):
        assert_same_bits(torch.from_numpy(values), expected)
        assert (indices is None) == (expected_indices is None)
        if indices is not None and expected_indices is not None:
            assert_same_bits(torch.from_numpy(indices), expected_indices)


def test_an_array_without_planes_gives_a_result_without_planes() -> None:
    ((values, indices),) = run_on_arrays(PoolStage((MaxPool2d(2),)), np.empty((0, 8, 8), np.float32))
    assert values.shape == (0, 4, 4)
    assert indices is None


def test_a_stage_does_not_change_its_input() -> None:
    image = torch.randint(0, 256, (3, 70, 70), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    floats = as_floats(image)
    before = image.clone(), floats.clone()
    specs = (MaxPool2d(1), AvgPool2d(1), MaxPool2d(2), AvgPool2d(2), GlobalMaxPool2d(), LPPool2d(2, 1))
    for planes, unit_scale in ((image, True), (image, False), (floats, False)):
        results = run_on_tensors(PoolStage(specs, unit_scale), planes)
        for values, _ in results:
            values.fill_(3)
    assert torch.equal(image, before[0])
    assert torch.equal(floats, before[1])


def test_a_device_gives_values_and_indices_for_samples_with_parameters_of_their_own() -> None:
    random = np.random.default_rng(0)
    spec = FractionalMaxPool2d(2, output_size=4, return_indices=True, random_samples=random.random((2, 3, 2)))
    stage = PoolStage.of((spec,), 3)
    # Two payloads of two samples each.
    planes = random.standard_normal((12, 8, 9)).astype(np.float32)
    ((values, indices),) = run_on_tensors(stage, torch.from_numpy(planes))
    (expected,) = run_on_arrays(stage, planes)
    assert indices is not None
    np.testing.assert_array_equal(values.reshape(expected.values.shape), expected.values)
    np.testing.assert_array_equal(indices.reshape(expected.values.shape), expected.indices)


def test_a_sequence_stops_between_groups_of_planes() -> None:
    stage = PoolStage.of((Sequential([MaxPool2d(2), SoftPool2d(2)]),), 1)
    answers = iter([False, True])
    with pytest.raises(WorkStopped):
        run_on_arrays(stage, np.zeros((64, 256, 256), np.float32), lambda: next(answers))
    assert next(answers, None) is None


@pytest.mark.parametrize(
    ("spec", "indivisible"),
    [
        (MaxPool2d(2), 1),
        (SoftPool2d(2), 1),
        (MixedPool2d(2, alpha_per_channel=(0.1, 0.2, 0.3)), 3),
        (Sequential([MaxPool2d(2), MixedPool2d(2, alpha_per_channel=(0.1, 0.2, 0.3))]), 3),
    ],
)
def test_a_payload_is_halved_between_the_units_that_a_spec_needs(spec: PoolSpec, indivisible: int) -> None:
    assert PoolStage.of((spec,), 3).indivisible == indivisible
