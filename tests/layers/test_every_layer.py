"""Properties of every layer beyond the classic ones: shapes, dtypes, batches, images, estimates."""

from random import Random
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from tests.layers.examples import EXAMPLES
from tests.layers.head_folders import HEADS, POOL_HEADS

from poolservice.specs import (
    LAYERS,
    BilinearPool2d,
    CompactBilinearPool2d,
    CovariancePool2d,
    CroW2d,
    MaskedAvgPool2d,
    MaskedGeMPool2d,
    PoolHead2d,
    PoolSpec,
    SCDA2d,
    SPoC2d,
)
from poolservice_server.operator_shapes import output_shape, result_dtype
from poolservice_server.pool_stage import PoolStage
from poolservice_server.pooling import run_on_arrays, run_on_tensors
from poolservice_server.pooling.dispatch import KERNELS
from poolservice_server.pooling.interop import to_array, to_tensor
from poolservice_server.stage_cost import stage_cost

HALVES = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))

each_example = pytest.mark.parametrize(
    ("spec", "shape"),
    [(POOL_HEADS.resolve(spec), shape) for spec, shape in EXAMPLES],
    ids=[f"{number}-{type(spec).__name__}" for number, (spec, _) in enumerate(EXAMPLES)],
)


def values_of(shape: tuple[int, ...], dtype: Any = np.float32) -> Any:
    generator = np.random.default_rng(Random(str(shape)).getrandbits(32))
    if np.dtype(dtype).kind in "iu":
        return generator.integers(0, 100, shape).astype(dtype)
    return generator.standard_normal(shape).astype(np.float32).astype(dtype)


def pooled(spec: PoolSpec, samples: Any, *, unit_scale: bool = False) -> Any:
    """Return the result of samples (N, C, *), which `run_stage` gets as planes."""
    stage = PoolStage.of((spec,), samples.shape[1], unit_scale=unit_scale)
    planes = samples.reshape(-1, *samples.shape[2:])
    return run_on_arrays(stage, planes)[0].values.reshape(output_shape(spec, samples.shape))


def test_every_layer_but_the_classic_ones_has_an_example() -> None:
    assert {type(spec) for spec, _ in EXAMPLES} == {layer for layer in LAYERS.values() if layer.operator not in KERNELS}


@each_example
def test_a_sample_has_the_same_bits_alone_and_in_a_batch(spec: PoolSpec, shape: tuple[int, ...]) -> None:
    samples = values_of((3, *shape))
    before = samples.tobytes()
    # As the view of a received message.
    samples.flags.writeable = False
    together = pooled(spec, samples)
    assert samples.tobytes() == before
    assert together.shape == output_shape(spec, (3, *shape))
    assert together.shape[1:] == output_shape(spec, shape)
    for number in range(3):
        alone = pooled(spec, samples[number : number + 1])
        assert alone.tobytes() == together[number : number + 1].tobytes()
    strided = np.moveaxis(np.ascontiguousarray(np.moveaxis(samples, 1, -1)), -1, 1)
    assert pooled(spec, strided).tobytes() == together.tobytes()


@each_example
def test_a_gpu_would_compute_the_same_from_the_whole_batch(spec: PoolSpec, shape: tuple[int, ...]) -> None:
    samples = values_of((3, *shape))
    stage = PoolStage.of((spec,), shape[0])
    before = samples.copy()
    values, _ = run_on_tensors(stage, torch.from_numpy(samples.reshape(-1, *shape[1:])))[0]
    # The other specs of the request pool the same tensor.
    np.testing.assert_array_equal(samples, before)
    np.testing.assert_allclose(values.reshape(output_shape(spec, samples.shape)), pooled(spec, samples), 2e-5, 1e-6)


@pytest.mark.parametrize(
    "spec",
    [
        SPoC2d(center_prior=True),
        CroW2d(),
        SCDA2d(),
        BilinearPool2d(),
        CompactBilinearPool2d(64),
        CovariancePool2d(9),
        MaskedAvgPool2d(np.arange(31 * 33).reshape(31, 33) % 3),
        MaskedGeMPool2d(np.arange(31 * 33).reshape(31, 33) % 3),
        POOL_HEADS.resolve(PoolHead2d("netvlad")),
    ],
    ids=lambda spec: type(spec).__name__,
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_bits_of_products_do_not_depend_on_where_a_payload_lies(spec: PoolSpec, dtype: Any) -> None:
    channels = HEADS["netvlad"].sample[0] if isinstance(spec, PoolHead2d) else 64
    values = np.abs(values_of((1, channels, 31, 33), dtype))
    memory = np.empty(values.size + 16, dtype)
    results = set()
    for offset in range(16):
        moved = memory[offset : offset + values.size].reshape(values.shape)
        moved[:] = values
        results.add(pooled(spec, moved).tobytes())
    assert len(results) == 1


@each_example
def test_no_sample_gives_no_result(spec: PoolSpec, shape: tuple[int, ...]) -> None:
    empty = pooled(spec, np.empty((0, *shape), np.float32))
    assert empty.shape == output_shape(spec, (0, *shape))
    assert empty.dtype == np.float32


@each_example
@pytest.mark.parametrize("dtype", HALVES, ids=["float16", "bfloat16"])
def test_floats_of_16_bits_are_computed_in_float32(spec: PoolSpec, shape: tuple[int, ...], dtype: Any) -> None:
    samples = values_of((2, *shape), dtype)
    widened = to_tensor(pooled(spec, samples.astype(np.float32)))
    half = to_array(widened.to(torch.float16 if dtype == np.float16 else torch.bfloat16))
    got = pooled(spec, samples)
    assert got.dtype == dtype
    if type(spec).__name__.startswith("Sequential"):
        # Each layer rounds.
        np.testing.assert_allclose(got.astype(np.float32), half.astype(np.float32), 0.02, 0.02)
    else:
        assert got.tobytes() == half.tobytes()


@each_example
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64])
def test_integers_are_computed_as_their_values(spec: PoolSpec, shape: tuple[int, ...], dtype: Any) -> None:
    samples = values_of((2, *shape), dtype)
    got = pooled(spec, samples)
    assert got.dtype == result_dtype(spec, np.dtype(dtype))
    expected = pooled(spec, samples.astype(np.float64))
    np.testing.assert_allclose(got, expected, 0 if got.dtype == dtype else 2e-5, 1e-5)


@each_example
def test_the_bytes_of_an_image_are_pooled_as_floats_from_0_to_1(spec: PoolSpec, shape: tuple[int, ...]) -> None:
    pixels = values_of((1, *shape), np.uint8)
    got = pooled(spec, pixels, unit_scale=True)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, pooled(spec, pixels.astype(np.float32) / np.float32(255)), 2e-5, 1e-6)


@each_example
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, 0.0])
def test_extreme_values_fail_nothing_and_warn_of_nothing(spec: PoolSpec, shape: tuple[int, ...], value: float) -> None:
    samples = values_of((1, *shape))
    samples.reshape(-1)[:: 3 if value else 1] = value
    assert pooled(spec, samples).shape == output_shape(spec, samples.shape)


@each_example
def test_the_server_estimates_its_cost(spec: PoolSpec, shape: tuple[int, ...]) -> None:
    planes = (3 * shape[0], *shape[1:])
    steps, nbytes = stage_cost(PoolStage.of((spec,), shape[0]), planes, np.dtype(np.float32))
    assert steps > 0
    assert nbytes >= np.prod(output_shape(spec, (3, *shape))) * 4
