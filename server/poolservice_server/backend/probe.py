"""The probe: a stage with a known result, which shows whether a device computes correctly."""

from typing import TYPE_CHECKING

import numpy as np

from poolservice.specs import AvgPool2d, MaxPool2d
from poolservice_server.backbone_stage import BackboneResult
from poolservice_server.backend.device import Device
from poolservice_server.pool_stage import PoolStage, SpecResult

if TYPE_CHECKING:
    from poolservice_server.backbones.engines.network import KnownResult

#: With indices, torch computes the maximum on every device; without, a numpy kernel would on the CPU.
STAGE = PoolStage((MaxPool2d(2, return_indices=True), AvgPool2d(2)))
#: The payload of `STAGE`.
PLANES = np.arange(48, dtype=np.float32).reshape(3, 4, 4)

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

# The largest error of a network's values relative to the largest of them. Half precision and other kernels round
# differently; a device that computes wrongly is far beyond that.
_TOLERANCE = 0.01


def computes_correctly(device: Device) -> bool:
    """Return True if `device` computes the known results, of pooling and of each of its backbones; never raise."""
    try:
        (pooled,) = device.run(STAGE, [PLANES])
        return is_correct(pooled) and all(
            _is_correct_for_network(device, network.known_result) for network in device.networks.values()
        )
    except Exception:  # noqa: BLE001 - whatever the error is, the device does not work
        return False


def _is_correct_for_network(device: Device, known: "KnownResult | None") -> bool:
    """Return True if the device computes the result of the first run again; a network without one was not run yet."""
    if known is None:
        return True
    (result,) = device.run_backbone(known.stage, [known.payload])
    return is_close(result, known)


def is_close(result: BackboneResult, known: "KnownResult") -> bool:
    """Return True if the result of a backbone is the known one, but for rounding."""
    error = np.abs(result.specs[0].values - known.values).max()
    return bool(error <= _TOLERANCE * np.abs(known.values).max())


def is_correct(pooled: tuple[SpecResult, ...]) -> bool:
    """Return True if these are the results of `STAGE` for `PLANES`."""
    maxima, means = pooled
    return (
        np.array_equal(maxima.values, _MAXIMA)
        and maxima.indices is not None
        and np.array_equal(maxima.indices, _POSITIONS)
        and np.array_equal(means.values, _MEANS)
    )
