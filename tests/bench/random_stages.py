"""Random stages with shapes and dtypes, from a few values to some megabytes, small windows to whole planes."""

import math
from collections.abc import Iterator
from dataclasses import fields
from random import Random
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from poolservice.errors import InvalidRequest
from poolservice.specs import LAYERS, PoolSpec
from poolservice_server.operator_shapes import output_shape
from poolservice_server.operators import OPERATORS
from poolservice_server.pool_stage import PoolStage

DTYPES = tuple(
    map(
        np.dtype,
        (
            np.float32,
            np.float64,
            np.float16,
            ml_dtypes.bfloat16,
            np.uint8,
            np.uint16,
            np.int8,
            np.int16,
            np.int32,
            np.int64,
        ),
    )
)

# The others pool one sample at a time; tests/bench/layers.py compares their estimates with measurements.
_OPERATORS = sorted({operator for operator, _ in LAYERS if OPERATORS[operator].stacks})
# A measurement of one case stays below a second, and a result below this many values.
_MAX_RESULT_VALUES = 2**23


class Case(NamedTuple):
    """One measurement: planes of a shape and dtype, and the stage that pools them.

    Attributes:
        interleaved: True if the planes are a view of channels that lie value by value, as a decoded image's do.
    """

    stage: PoolStage
    shape: tuple[int, ...]
    dtype: np.dtype
    interleaved: bool

    def planes(self, generator: np.random.Generator) -> np.ndarray:
        """Return random planes, without a zero among floats."""
        shape = (*self.shape[1:], self.shape[0]) if self.interleaved else self.shape
        if self.dtype.kind in "iu":
            planes = generator.integers(0, 100, shape, self.dtype)
        else:
            planes = generator.random(shape, np.float32).astype(self.dtype)
            planes += np.ones((), self.dtype)
        return np.moveaxis(planes, -1, 0) if self.interleaved else planes

    def __str__(self) -> str:
        """Return the case in one line."""
        specs = ", ".join(map(repr, self.stage.specs))
        scale = " as an image" if self.stage.unit_scale else ""
        layout = " interleaved" if self.interleaved else ""
        return f"{specs} on {'x'.join(map(str, self.shape))} {self.dtype}{scale}{layout}"


def random_cases(seed: int, *, max_values: int = 2**23) -> Iterator[Case]:
    """Yield cases of up to `max_values` values each, without end; equal seeds give equal cases."""
    random = Random(seed)
    while True:
        dims = random.choice((1, 1, 2, 2, 2, 3))
        count = _log_uniform(random, 2**8, max_values)
        planes = min(count, random.choice((1, 1, 3, _log_uniform(random, 1, 2048))))
        spatial = _spatial(random, dims, max(1, count // planes))
        image = random.random() < 0.1
        dtype = np.dtype(random.choice((np.uint8, np.uint8, np.uint16))) if image else random.choice(DTYPES)
        specs = tuple(_spec(random, dims, spatial) for _ in range(random.choice((1, 1, 1, 1, 2, 3))))
        shape = (planes, *spatial)
        try:
            results = sum(math.prod(output_shape(spec, shape)) for spec in specs)
        except InvalidRequest:
            continue
        if results <= _MAX_RESULT_VALUES:
            # Only decoded images of 8 bits are interleaved.
            interleaved = image and dtype.itemsize == 1 and 1 < planes <= 4 and random.random() < 0.5
            yield Case(PoolStage(specs, image), shape, dtype, interleaved)


def _log_uniform(random: Random, low: int, high: int) -> int:
    return round(math.exp(random.uniform(math.log(low), math.log(high))))


def _spatial(random: Random, dims: int, count: int) -> tuple[int, ...]:
    side = count ** (1 / dims)
    sizes = [max(1, round(side * math.exp(random.gauss(0, 0.4)))) for _ in range(dims - 1)]
    return (*sizes, max(1, count // math.prod(sizes)))


def _spec(random: Random, dims: int, spatial: tuple[int, ...]) -> PoolSpec:
    operator = random.choice(_OPERATORS)
    kernel = tuple(
        min(size, _log_uniform(random, 1, max(2, min(size, 2 ** random.randint(1, 10))))) for size in spatial
    )
    if random.random() < 0.5:
        kernel = (min(kernel),) * dims
    strides: tuple[tuple[int, ...], ...] = ((1,) * dims, (2,) * dims, kernel)
    dilation = random.randint(2, 3) if random.random() < 0.15 else 1
    parameters: dict[str, Any] = {
        "kernel_size": kernel,
        "stride": random.choice((*strides, tuple(random.randint(1, size) for size in kernel))),
        "padding": tuple(random.randint(0, size // 2) for size in kernel) if random.random() < 0.3 else 0,
        "ceil_mode": random.random() < 0.2,
        "dilation": dilation,
        "return_indices": random.random() < 0.15,
        "count_include_pad": random.random() < 0.7,
        "divisor_override": random.choice((None, None, None, 7)),
        "output_size": tuple(_log_uniform(random, 1, random.choice((8, size, 2 * size))) for size in spatial),
        "norm_type": random.choice((2.0, 2.0, 1.0, 3.0, 1.5)),
        "alpha": 0.25,
    }
    layer = LAYERS[operator, dims]
    own = {field.name for field in fields(layer)}
    return layer(**{name: value for name, value in parameters.items() if name in own})
