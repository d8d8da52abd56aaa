"""The estimate of one spec, and the sizes that all estimates start from."""

import math
from typing import NamedTuple

import numpy as np

from poolservice.specs import PoolSpec
from poolservice_server.operator_shapes import plane_result, result_dtype
from poolservice_server.stage_cost.coefficients import LARGE_PASS, PASS

#: Arrays up to this size stay in a core's caches between two passes.
_CACHED_BYTES = 2**20

_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)


class Estimate(NamedTuple):
    """The cost of one spec on some planes.

    Attributes:
        algorithm: its name, for reports.
        steps: the time.
        work_bytes: the peak of the intermediates, without the result.
        result_bytes: the result.
    """

    algorithm: str
    steps: float
    work_bytes: float
    result_bytes: float

    @property
    def peak_bytes(self) -> float:
        """The peak of the intermediates and the result."""
        return self.work_bytes + self.result_bytes


class Sizes(NamedTuple):
    """The sizes of a spec on planes.

    Attributes:
        planes: P.
        spatial: the spatial shape of a plane.
        values: the number of values in all planes.
        results: the number of values in the results of all planes.
        dtype: the dtype of the planes.
        half: True for float16 and bfloat16.
        integer: True for an integer dtype.
        result_bytes: the size of the result, indices included.
    """

    planes: int
    spatial: tuple[int, ...]
    values: int
    results: int
    dtype: np.dtype
    half: bool
    integer: bool
    result_bytes: int

    @property
    def width(self) -> int:
        """The bytes of a value."""
        return self.dtype.itemsize


def sizes_of(spec: PoolSpec, shape: tuple[int, ...], dtype: np.dtype) -> Sizes:
    """Return the sizes of a spec on planes (P, *spatial)."""
    # Of one plane, because torch accepts a batch without samples but no sample without channels.
    results = shape[0] * math.prod(plane_result(spec, shape[1:]))
    indices = 8 if getattr(spec, "return_indices", False) else 0
    integer = dtype.kind in "iu"
    return Sizes(
        shape[0],
        shape[1:],
        math.prod(shape),
        results,
        dtype,
        not integer and dtype.itemsize == 2,
        integer,
        results * (result_dtype(spec, dtype).itemsize + indices),
    )


def pass_steps(values: float, width: int) -> float:
    """Return the steps of one pass of numpy over values of a width in bytes."""
    return values * (PASS if values * width <= _CACHED_BYTES else LARGE_PASS)[width]


def sum_dtype(sizes: Sizes, count: int) -> np.dtype:
    """Return the float dtype in which the mean of `count` values is computed, as `sum_dtypes.float_for_sum` does."""
    if sizes.dtype == _FLOAT32 or sizes.half or (sizes.width == 1 and count <= 2**16):
        return _FLOAT32
    return _FLOAT64
