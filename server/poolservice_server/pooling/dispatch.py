"""The table of operators: the torch operator and the numpy kernel factory of each.

A torch operator takes planes (P, *spatial), any strides, and its spec. It returns the values (P, *out) and, if the
spec asks for them, int64 indices of the same shape.

A call into torch takes about ten microseconds if other code has run since the last one, because its code is then no
longer in the processor's caches. A call into numpy takes one or two. For small payloads these calls are most of the
cost, so on the CPU most operators have numpy kernels. `run_stage.run_on_arrays` caches the choice for each spec, shape
and dtype.

The result of a plane has the same bits whatever its batch-mates and the number of threads are.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch

from poolservice.specs import PoolSpec
from poolservice_server.operator_shapes import ORDER_STATISTICS, output_shape
from poolservice_server.pooling.array_types import Kernel, KernelFactory, TensorResult
from poolservice_server.pooling.interop import HALF_DTYPES
from poolservice_server.pooling.numpy_kernels import extremes as numpy_extremes
from poolservice_server.pooling.numpy_kernels import means_and_power_sums as numpy_averages
from poolservice_server.pooling.numpy_kernels import sliding_extremes, sliding_sums
from poolservice_server.pooling.numpy_kernels.half_precision import through_float32
from poolservice_server.pooling.numpy_kernels.sliding_parts import SlidingFactory, SlidingKernel
from poolservice_server.pooling.torch_operators import extremes, means_and_power_sums


class Operator(NamedTuple):
    """How an operator is computed.

    Attributes:
        torch_operator: pools tensors on any device.
        kernel_factory: makes numpy kernels for the CPU; None if torch always pools.
        sliding_factory: makes kernels for the CPU for windows that read each value many times.
        torch_bits: True if the kernels of `kernel_factory` give torch's bits, so that the choice between them and torch
            may depend on the number of planes.
        commutes_with_scale: True if pooling the integers of an image and dividing the result equals dividing first.
    """

    torch_operator: Callable[[torch.Tensor, Any], TensorResult]
    kernel_factory: KernelFactory | None
    sliding_factory: SlidingFactory | None = None
    torch_bits: bool = True
    commutes_with_scale: bool = True


#: By the name of the operator in the contract.
OPERATORS: Mapping[str, Operator] = MappingProxyType(
    {
        "max_pool": Operator(extremes.max_pool, numpy_extremes.max_pool, sliding_extremes.max_pool),
        "min_pool": Operator(extremes.min_pool, numpy_extremes.min_pool, sliding_extremes.min_pool),
        "avg_pool": Operator(means_and_power_sums.avg_pool, numpy_averages.avg_pool, sliding_sums.avg_pool),
        "lp_pool": Operator(
            means_and_power_sums.lp_pool, numpy_averages.lp_pool, sliding_sums.lp_pool, commutes_with_scale=False
        ),
        "mixed_pool": Operator(means_and_power_sums.mixed_pool, numpy_averages.mixed_pool, sliding_sums.mixed_pool),
        "adaptive_max_pool": Operator(extremes.adaptive_max_pool, numpy_extremes.adaptive_max_pool),
        "adaptive_avg_pool": Operator(
            means_and_power_sums.adaptive_avg_pool, numpy_averages.adaptive_avg_pool, torch_bits=False
        ),
        "global_max_pool": Operator(extremes.global_max_pool, numpy_extremes.global_max_pool),
        "global_min_pool": Operator(extremes.global_min_pool, numpy_extremes.global_min_pool),
        "global_avg_pool": Operator(
            means_and_power_sums.global_avg_pool, numpy_averages.global_avg_pool, torch_bits=False
        ),
    }
)


def pool(planes: torch.Tensor, spec: PoolSpec) -> TensorResult:
    """Pool each plane in torch.

    Shape:
        planes: (P, *spatial), P may be 0, any strides; values and indices: (P, *out), contiguous.

    Dtypes:
        float32, float64, float16, bfloat16, uint8, int8, uint16, int16, int32, int64. Order statistics keep the input's
        dtype and are exact in it. Means and power sums of float16 and bfloat16 are computed in float32 and rounded
        once; those of integers are computed exactly or in float64 and returned as float32.

    Returns:
        The values, and with return_indices the flat position of each value in its plane, else None.

    Raises:
        InvalidRequest: from `output_shape`, only if P is 0; otherwise the spec must have been validated.
    """
    if planes.shape[0] == 0:
        return _empty_result(planes, spec)
    operator = OPERATORS[spec.operator].torch_operator
    if planes.dtype != torch.uint16:
        return operator(planes, spec)
    # torch has no pooling and little arithmetic for uint16; int32 holds all of its values.
    values, indices = operator(planes.to(torch.int32), spec)
    return values.to(torch.uint16) if spec.operator in ORDER_STATISTICS else values, indices


def kernel_for(spec: PoolSpec, spatial: tuple[int, ...], dtype: np.dtype) -> Kernel | None:
    """Return the numpy kernel for planes of this spatial shape and dtype; None if torch must pool them.

    The kernel takes planes of any strides and returns contiguous values. It returns None for planes that torch must
    pool. Order statistics have torch's bits, and so have the means and power sums of windows. For large windows, use
    the kernel of `sliding_kernel_for` if there is one; it adds in another order than torch.
    """
    operator = OPERATORS[spec.operator]
    factory = operator.kernel_factory
    if factory is None or 0 in spatial or getattr(spec, "return_indices", False):
        return None
    if dtype in HALF_DTYPES:
        return through_float32(factory, spec, spatial, dtype, torch_bits=operator.torch_bits)
    return factory(spec, spatial, dtype)


def sliding_kernel_for(spec: PoolSpec, spatial: tuple[int, ...], dtype: np.dtype) -> SlidingKernel | None:
    """Return the kernel that takes torch's place if torch would read each value too often; None if it would not.

    It pools every number of planes. Extremes and indices have torch's bits, so `kernel_for` may be tried first. Means
    and power sums have not: if this function returns a kernel for their spec, nothing else may pool such planes.
    """
    factory = OPERATORS[spec.operator].sliding_factory
    return None if factory is None or 0 in spatial else factory(spec, spatial, dtype)


def _empty_result(planes: torch.Tensor, spec: PoolSpec) -> TensorResult:
    shape = output_shape(spec, (0, 1, *planes.shape[1:]))
    shape = (0, *shape[2:])
    keeps_dtype = spec.operator in ORDER_STATISTICS or planes.is_floating_point()
    values = planes.new_empty(shape, dtype=planes.dtype if keeps_dtype else torch.float32)
    indices = planes.new_empty(shape, dtype=torch.int64) if getattr(spec, "return_indices", False) else None
    return values, indices
