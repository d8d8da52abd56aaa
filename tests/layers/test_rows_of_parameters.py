"""Parameters with a row for each sample: who gets which row, in any batch."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from tests.layers.test_every_layer import pooled

from poolservice.errors import InvalidRequest
from poolservice.specs import (
    MaskedAvgPool1d,
    MaskedAvgPool2d,
    MaskedGeMPool3d,
    MaskedMaxPool2d,
    MaxPool2d,
    MaxUnpool1d,
    PSRoIAlign2d,
    PSRoIPool2d,
    RoIAlign2d,
    RoIPool2d,
    Sequential,
)
from poolservice_server.backend.cpu import CpuDevice
from poolservice_server.backend.policy import Backend
from poolservice_server.operator_shapes import output_shape
from poolservice_server.pool_stage import BatchKey, PoolStage
from poolservice_server.pooling import run_on_arrays, run_on_tensors


def per_sample_specs() -> Iterator[tuple[Any, tuple[int, ...]]]:
    generator = np.random.default_rng(9)
    boxes = generator.uniform(0, 9, (3, 4, 4))
    yield RoIAlign2d(boxes, 2), (2, 7, 8)
    yield RoIPool2d(boxes, 2), (2, 7, 8)
    yield PSRoIAlign2d(boxes, 2), (8, 7, 8)
    yield PSRoIPool2d(boxes, 2), (8, 7, 8)
    yield MaskedAvgPool1d(lengths=[3, 0, 9]), (2, 9)
    yield MaskedMaxPool2d(generator.integers(0, 2, (3, 7, 8)), 2), (2, 7, 8)
    yield MaskedGeMPool3d(generator.uniform(0, 1, (3, 3, 4, 5))), (2, 3, 4, 5)
    yield MaxUnpool1d(generator.integers(0, 8, (3, 2, 4)), 2), (2, 4)
    yield Sequential([MaxPool2d(2), MaskedAvgPool2d(generator.integers(0, 2, (3, 3, 4)))]), (2, 7, 8)


per_sample = pytest.mark.parametrize(("spec", "shape"), list(per_sample_specs()))


@per_sample
def test_each_sample_has_its_own_row_of_a_parameter(spec: Any, shape: tuple[int, ...]) -> None:
    samples = np.random.default_rng(2).standard_normal((3, *shape)).astype(np.float32)
    together = pooled(spec, samples)
    for number in range(3):
        own = spec.of_samples(slice(number, number + 1))
        assert own.parameter_bytes * 3 == spec.parameter_bytes
        alone = pooled(own, samples[number : number + 1])
        assert alone.tobytes() == together[number : number + 1].tobytes()


@per_sample
def test_some_of_the_samples_keep_their_rows(spec: Any, shape: tuple[int, ...]) -> None:
    samples = np.random.default_rng(2).standard_normal((3, *shape)).astype(np.float32)
    last = spec.of_samples(slice(1, 3))
    assert last.samples == 2
    assert pooled(last, samples[1:]).tobytes() == pooled(spec, samples)[1:].tobytes()


@per_sample
def test_requests_with_equal_rows_may_share_a_batch(spec: Any, shape: tuple[int, ...]) -> None:
    requests = np.random.default_rng(2).standard_normal((2, 3, *shape)).astype(np.float32)
    stage = PoolStage.of((spec,), shape[0])
    planes = requests.reshape(2, -1, *shape[1:])
    alone = [run_on_arrays(stage, one)[0].values for one in planes]
    together = run_on_arrays(stage, planes.reshape(-1, *shape[1:]))[0].values
    assert together.tobytes() == b"".join(one.tobytes() for one in alone)
    on_gpu, _ = run_on_tensors(stage, torch.from_numpy(planes.reshape(-1, *shape[1:])))[0]
    np.testing.assert_allclose(on_gpu.numpy(), together, 1e-5, 1e-6)


@per_sample
def test_a_payload_beyond_the_size_of_a_batch_stays_whole_or_is_cut_between_samples(
    spec: Any, shape: tuple[int, ...]
) -> None:
    samples = np.random.default_rng(2).standard_normal((3, *shape)).astype(np.float32)
    planes = samples.reshape(-1, *shape[1:])
    backend = Backend([CpuDevice()], max_batch_bytes=64)
    for one in (spec, spec.of_samples(slice(1))):
        key = BatchKey(PoolStage.of((one,), shape[0]), shape[1:], planes.dtype)
        (outcome,) = backend.run(key, [planes])
        assert not isinstance(outcome, Exception)
        assert outcome.result[0].values.tobytes() == pooled(one, samples).tobytes()


@per_sample
def test_rows_for_another_number_of_samples_are_refused(spec: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidRequest, match="has a row for each of 3 samples, but the tensor has 2"):
        output_shape(spec, (2, *shape))
    with pytest.raises(InvalidRequest, match="has a row for each of 3 samples, but the tensor has 1"):
        output_shape(spec, shape)
