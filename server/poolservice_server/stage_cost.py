"""Estimates of the time and the memory of a stage, from its specs, shape and dtype alone, without torch.

One step is one nanosecond on the machine on which the coefficients were measured. `calibrate` returns how long a step
takes on this machine.
"""

import math
import time
from typing import NamedTuple

import numpy as np

from poolservice.specs import AdaptiveSpec, PoolSpec, WindowSpec
from poolservice_server.operator_shapes import output_shape, result_dtype
from poolservice_server.pool_stage import PoolStage

_CALL_STEPS = 20_000.0
_STEPS_PER_VALUE = 1.0
_CALIBRATION_VALUES = 2**18
_CALIBRATION_STEPS = 60_000.0


class Cost(NamedTuple):
    """What a request costs.

    Attributes:
        steps: the estimated time, in steps of `calibrate()` seconds.
        peak_bytes: the estimated peak of the memory for intermediates and results, beyond the payload.
        response_bytes: the size of the response.
    """

    steps: float
    peak_bytes: int
    response_bytes: int


def stage_cost(stage: PoolStage, planes_shape: tuple[int, ...], dtype: np.dtype) -> tuple[float, int]:
    """Estimate the steps and the peak bytes of running a stage on planes (P, *spatial) on the CPU."""
    steps, held, peak = 0.0, 0, 0
    for spec in stage.specs:
        spec_steps, spec_peak, result = _spec_cost(spec, planes_shape, dtype)
        steps += spec_steps
        peak = max(peak, held + spec_peak)
        held += result
    return steps, max(peak, held)


def calibrate() -> float:
    """Return the seconds that one step takes on this machine, in less than 0.2 s."""
    left, right = np.ones((2, _CALIBRATION_VALUES), np.float32)
    out = np.empty_like(left)
    times = []
    for _ in range(50):
        start = time.perf_counter()
        np.maximum(left, right, out=out)
        times.append(time.perf_counter() - start)
    return min(times) / _CALIBRATION_STEPS


def _spec_cost(spec: PoolSpec, shape: tuple[int, ...], dtype: np.dtype) -> tuple[float, int, int]:
    """Return the steps, the peak bytes and the bytes of the result of one spec."""
    out = math.prod(output_shape(spec, (1, *shape))[1:]) if shape[0] else 0
    values = math.prod(shape)
    indices = bool(getattr(spec, "return_indices", False))
    result = out * (result_dtype(spec, dtype).itemsize + 8 * indices)
    if isinstance(spec, WindowSpec):
        read = out * math.prod(spec.window.kernel_size)
    elif isinstance(spec, AdaptiveSpec):
        read = values + 2 * out
    else:
        read = values
    return _CALL_STEPS + _STEPS_PER_VALUE * (read + values), 2 * result + 8 * values, result
