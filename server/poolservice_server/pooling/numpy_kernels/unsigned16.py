"""Kernels for uint16: computed in int32, which holds all of its values."""

import numpy as np

from poolservice.specs import PoolSpec
from poolservice_server.operator_shapes import ORDER_STATISTICS
from poolservice_server.pooling.array_types import Array, Kernel, KernelFactory

_UINT16, _INT32 = np.dtype(np.uint16), np.dtype(np.int32)


def through_int32(factory: KernelFactory, spec: PoolSpec, spatial: tuple[int, ...]) -> Kernel | None:
    """Return the factory's int32 kernel for planes of shape `spatial`, with the conversions around it."""
    kernel = factory(spec, spatial, _INT32)
    if kernel is None:
        return None
    keeps_dtype = spec.operator in ORDER_STATISTICS

    def run(planes: Array) -> Array | None:
        values = kernel(planes.astype(_INT32))
        return values.astype(_UINT16) if keeps_dtype and values is not None else values

    return run
