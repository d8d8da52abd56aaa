"""Kernels for float16 and bfloat16: computed in float32, rounded once."""

import numpy as np

from poolservice.specs import PoolSpec
from poolservice_server.kernel_thresholds import HALF_MIN_VALUES
from poolservice_server.pooling.array_types import Array, Kernel, KernelFactory
from poolservice_server.pooling.interop import narrow, widen

_FLOAT32 = np.dtype(np.float32)


def through_float32(
    factory: KernelFactory, spec: PoolSpec, spatial: tuple[int, ...], dtype: np.dtype, *, torch_bits: bool
) -> Kernel | None:
    """Return the factory's float32 kernel, with the conversions around it.

    Args:
        factory: makes the kernel.
        spec: the spec, for planes of shape `spatial` and type `dtype`.
        spatial: the planes' spatial shape.
        dtype: float16 or bfloat16.
        torch_bits: whether the kernel gives torch's bits. If not, it must pool every number of planes, since a result
            may not depend on the batch.
    """
    kernel = factory(spec, spatial, _FLOAT32)
    if kernel is None:
        return None
    min_values = HALF_MIN_VALUES if torch_bits else 0

    def run(planes: Array) -> Array | None:
        values = kernel(widen(planes)) if planes.size >= min_values else None
        return None if values is None else narrow(values, dtype)

    return run
