"""A known answer, by which a device is known to work."""

from dataclasses import dataclass

import numpy as np
import torch

from poolservice_server.backend.device import Device
from poolservice_server.pooling.interop import to_array, to_tensor


@dataclass(frozen=True)
class _BlockSums:
    """Sums of 2 by 2 blocks: plain arithmetic, so that the answer is known without pooling."""

    def __call__(self, planes: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        return [(planes.reshape(len(planes), 2, 2, 2, 2).sum((2, 4)), None)]

    def on_arrays(self, planes: np.ndarray) -> list[tuple[np.ndarray, np.ndarray | None]]:
        """By torch too, which is what is tried."""
        return [(to_array(values), None) for values, _ in self(to_tensor(planes))]


_PLANES = np.arange(48, dtype=np.float32).reshape(3, 4, 4)
# The first block of the first plane is 0 + 1 + 4 + 5; the next ones are 2 columns, 2 rows and 16 elements further on.
_ANSWER = 10 + 4 * (
    16 * np.arange(3, dtype=np.float32)[:, None, None]
    + 8 * np.arange(2, dtype=np.float32)[:, None]
    + 2 * np.arange(2, dtype=np.float32)
)


def computes_rightly(device: Device) -> bool:
    """Whether `device` computes a known answer rightly; never raises."""
    try:
        ((pooled,),) = device.run((_BlockSums(),), [_PLANES])
    except Exception:  # noqa: BLE001 - whatever it is, the device does not work
        return False
    return np.array_equal(pooled.values, _ANSWER)
