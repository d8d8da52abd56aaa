"""Properties of every layer on generated shapes, dtypes and parameters.

The result has the estimated size and dtype, the same bits in any batch, and the values of a float64 reference. The
layers that draw at random are compared in `test_sampling.py` and `test_fractional_max_pool.py`.
"""

from random import Random
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from tests.layers.drawn_specs import drawn_sizes, drawn_spec
from tests.layers.float64_references import POSITIVE, REFERENCES, assert_agrees
from tests.layers.test_every_layer import each_example, pooled, values_of

from poolservice.errors import InvalidRequest
from poolservice.specs import LAYERS, OPERATORS, PoolSpec
from poolservice_server.operator_shapes import output_shape, result_dtype
from poolservice_server.pooling.dispatch import KERNELS

DTYPES = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64, np.uint8, np.int32)
SEEDS = range(2)


def drawn_shape(spec: PoolSpec, shape: tuple[int, ...], random: Random) -> tuple[int, ...]:
    """Return a shape near that of the example which the layer takes; the example's own if 20 others are refused."""
    for _ in range(20):
        drawn = tuple(max(1, size + random.randint(-3, 4)) for size in shape)
        try:
            output_shape(spec, (2, *drawn))
        except InvalidRequest:
            continue
        return drawn
    return shape


@each_example
def test_a_drawn_sample_has_the_same_bits_alone_and_in_a_batch(spec: PoolSpec, shape: tuple[int, ...]) -> None:
    for seed in SEEDS:
        random = Random(f"{seed} {shape}")
        drawn = drawn_shape(spec, shape, random)
        dtype: Any = np.dtype(random.choice(DTYPES))
        case = f"seed {seed}: {spec} of {drawn} {dtype}"
        samples = values_of((2, *drawn), dtype)
        together = pooled(spec, samples)
        assert together.shape == output_shape(spec, (2, *drawn)), case
        assert together.dtype == result_dtype(spec, dtype), case
        for number in range(2):
            alone = pooled(spec, samples[number : number + 1])
            assert alone.tobytes() == together[number : number + 1].tobytes(), case


def test_every_operator_has_a_reference() -> None:
    of_their_own = {"s3_pool", "fractional_max_pool", "sequential"}
    assert REFERENCES.keys() | KERNELS.keys() | of_their_own == set(OPERATORS)


@pytest.mark.parametrize(("operator", "dims"), [key for key in LAYERS if key[0] in REFERENCES])
def test_drawn_parameters_give_the_values_of_the_reference(operator: str, dims: int) -> None:
    for seed in range(12):
        random = Random(f"{operator} {dims} {seed}")
        spec, shape = drawn_spec(operator, drawn_sizes(random, dims))
        dtype: Any = np.dtype(DTYPES[seed % len(DTYPES)])
        sample = values_of(shape, dtype)
        assert_agrees(spec, abs(sample) if operator in POSITIVE else sample)
