"""What holds for every layer on generated shapes and dtypes: the size of the result, its dtype, and the same bits."""

from random import Random
from typing import Any

import ml_dtypes
import numpy as np
from tests.layers.test_every_layer import each_example, pooled, values_of

from poolservice.errors import InvalidRequest
from poolservice.specs import PoolSpec
from poolservice_server.operator_shapes import output_shape, result_dtype

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
