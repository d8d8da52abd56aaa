"""The probe: a stage with a known result, which shows whether a device computes correctly."""

import numpy as np

from poolservice.specs import AvgPool2d, MaxPool2d
from poolservice_server.backend.device import Device
from poolservice_server.pool_stage import PoolStage

# With indices, torch computes the maximum on every device; without, a numpy kernel would on the CPU.
_STAGE = PoolStage((MaxPool2d(2, return_indices=True), AvgPool2d(2)))
_PLANES = np.arange(48, dtype=np.float32).reshape(3, 4, 4)

# The planes count upwards in row-major order, so plain arithmetic gives the results. Plane p begins with the value
# 16 p, and its 2 by 2 block in row i and column j with 16 p + 8 i + 2 j. That block holds this first value plus 0, 1,
# 4 and 5: its maximum is its first value + 5, its mean its first value + 2.5, all of them exact in float32. The
# position of the maximum in its plane is the value of the maximum - 16 p.
_FIRST_VALUES = (
    16 * np.arange(3, dtype=np.float32)[:, None, None]
    + 8 * np.arange(2, dtype=np.float32)[:, None]
    + 2 * np.arange(2, dtype=np.float32)
)
_MAXIMA = _FIRST_VALUES + 5
_MEANS = _FIRST_VALUES + 2.5
_POSITIONS = (_MAXIMA % 16).astype(np.int64)


def computes_correctly(device: Device) -> bool:
    """Return True if `device` computes the known result; never raise."""
    try:
        ((maxima, means),) = device.run(_STAGE, [_PLANES])
    except Exception:  # noqa: BLE001 - whatever the error is, the device does not work
        return False
    return (
        np.array_equal(maxima.values, _MAXIMA)
        and maxima.indices is not None
        and np.array_equal(maxima.indices, _POSITIONS)
        and np.array_equal(means.values, _MEANS)
    )
