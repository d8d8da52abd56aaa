"""Estimates of the time and the memory of a stage, from its specs, shape and dtype alone, without torch.

One step is one nanosecond on the machine on which the coefficients were measured, and `calibrate` returns how long a
step takes on this one. `tests/bench/stage_cost.py` compares the estimates with measurements.

Each module here mirrors a part of `pooling`: which algorithm pools planes of a shape, how many steps it takes, what it
holds in memory. The time and the memory of a backbone are measured when the server starts; `core.backbone_plan` adds
them to the estimate of the specs that pool its output.
"""

import time
from typing import NamedTuple

import numpy as np

from poolservice_server.pool_stage import PoolStage
from poolservice_server.stage_cost.spec_estimates import spec_estimate

# The time of the calibration's operation on the reference machine, in steps: np.maximum of two arrays in the caches.
_CALIBRATION_VALUES = 2**16
_CALIBRATION_STEPS = 9_050.0
_CALIBRATION_RUNS = 2_000
_CALIBRATION_SECONDS = 0.1


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
    """Estimate the time and the memory of running a stage on the CPU, on one thread.

    Args:
        stage: the specs, validated for the shape.
        planes_shape: (P, *spatial).
        dtype: the dtype of the planes.

    Returns:
        The steps, within a factor of 4 of the measured time above a millisecond, and the peak of the bytes for
        intermediates and results beyond the payload, within a factor of 1.5 above some megabytes.
    """
    steps, held, peak = 0.0, 0.0, 0.0
    for spec in stage.specs:
        estimate = spec_estimate(spec, planes_shape, dtype, channels=stage.channels, unit_scale=stage.unit_scale)
        steps += estimate.steps
        peak = max(peak, held + estimate.peak_bytes)
        held += estimate.result_bytes
    return steps, int(max(peak, held))


def calibrate() -> float:
    """Return the seconds that one step takes on this machine, in less than 0.2 s.

    The least time of many short runs counts, so a busy machine does not seem slow.
    """
    left, right = np.ones((2, _CALIBRATION_VALUES), np.float32)
    out = np.empty_like(left)
    least = float("inf")
    end = time.perf_counter() + _CALIBRATION_SECONDS
    for _ in range(_CALIBRATION_RUNS):
        start = time.perf_counter()
        np.maximum(left, right, out=out)
        now = time.perf_counter()
        least = min(least, now - start)
        if now > end:
            break
    return least / _CALIBRATION_STEPS
