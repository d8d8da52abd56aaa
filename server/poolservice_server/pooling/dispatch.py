"""Pooling in torch, and the table of the operators that the CPU computes in numpy.

A classic operator's function takes planes (P, *spatial), any strides and dtype, and its spec. It returns the values
(P, *out) and, if the spec asks for them, int64 indices of the same shape. The functions of the others take contiguous
planes, or samples (N, C, *spatial) if their spec says so, of float32 or float64, and of an order statistic of any dtype
but uint16 and the floats of 16 bits. They return the values, or values and indices.

A call into torch takes about ten microseconds if other code has run since the last one, because its code is then no
longer in the processor's caches. A call into numpy takes one or two. For small payloads these calls are most of the
cost, so on the CPU most operators have numpy kernels. `run_stage.run_on_arrays` caches the choice for each spec, shape
and dtype.

The result of a plane has the same bits whatever its batch-mates and the number of threads are.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from poolservice.specs import PoolSpec
from poolservice_server.operator_shapes import SEQUENCES, layers_of, output_shape, result_dtype
from poolservice_server.operators import stacks
from poolservice_server.pooling.array_types import Kernel, KernelFactory, TensorResult
from poolservice_server.pooling.interop import HALF_DTYPES
from poolservice_server.pooling.numpy_kernels import extremes as numpy_extremes
from poolservice_server.pooling.numpy_kernels import means_and_power_sums as numpy_averages
from poolservice_server.pooling.numpy_kernels import sliding_extremes, sliding_sums
from poolservice_server.pooling.numpy_kernels.half_precision import through_float32
from poolservice_server.pooling.numpy_kernels.sliding_parts import SlidingFactory, SlidingKernel
from poolservice_server.pooling.torch_operators import FUNCTIONS

Values = TypeVar("Values", np.ndarray, torch.Tensor)


class Kernels(NamedTuple):
    """How the CPU computes an operator in numpy.

    Attributes:
        factory: makes numpy kernels.
        sliding_factory: makes kernels for windows that read each value many times.
        torch_bits: True if the kernels of `factory` give torch's bits, so that the choice between them and torch may
            depend on the number of planes.
    """

    factory: KernelFactory
    sliding_factory: SlidingFactory | None = None
    torch_bits: bool = True


#: By the name of the operator in the contract. torch computes all others.
KERNELS: Mapping[str, Kernels] = MappingProxyType(
    {
        "max_pool": Kernels(numpy_extremes.max_pool, sliding_extremes.max_pool),
        "min_pool": Kernels(numpy_extremes.min_pool, sliding_extremes.min_pool),
        "avg_pool": Kernels(numpy_averages.avg_pool, sliding_sums.avg_pool),
        "lp_pool": Kernels(numpy_averages.lp_pool, sliding_sums.lp_pool),
        "mixed_pool": Kernels(numpy_averages.mixed_pool, sliding_sums.mixed_pool),
        "adaptive_max_pool": Kernels(numpy_extremes.adaptive_max_pool),
        "adaptive_avg_pool": Kernels(numpy_averages.adaptive_avg_pool, torch_bits=False),
        "global_max_pool": Kernels(numpy_extremes.global_max_pool),
        "global_min_pool": Kernels(numpy_extremes.global_min_pool),
        "global_avg_pool": Kernels(numpy_averages.global_avg_pool, torch_bits=False),
    }
)


def pool(planes: torch.Tensor, spec: PoolSpec, channels: int = 1) -> TensorResult:
    """Pool planes in torch.

    Args:
        planes: (P, *spatial), any strides; P may be 0.
        spec: the spec, validated for the shape.
        channels: the number of planes of a sample, for operators that take samples.

    Dtypes:
        float32, float64, float16, bfloat16, uint8, int8, uint16, int16, int32, int64. Order statistics keep the input's
        dtype and are exact in it. Others compute float16 and bfloat16 in float32 and round once; those of integers are
        computed exactly or in float64 and returned as float32.

    Returns:
        The values (P, *out), or (N, *result) of an operator that takes samples; and with return_indices the flat
        position of each value in its plane, else None. Both are contiguous.

    Raises:
        InvalidRequest: from `output_shape`, only if P is 0; otherwise the spec must have been validated.
    """
    if planes.shape[0] == 0:
        return _empty_result(planes, spec, channels)
    if isinstance(spec, SEQUENCES):
        return _sequence(planes, spec, channels)
    if not stacks(spec):
        return _pool_computed(planes, spec, channels)
    function: Callable[[torch.Tensor, PoolSpec], TensorResult] = FUNCTIONS[spec.operator]
    if planes.dtype != torch.uint16:
        return function(planes, spec)
    # torch has no pooling and little arithmetic for uint16; int32 holds all of its values.
    values, indices = function(planes.to(torch.int32), spec)
    return values.to(torch.uint16) if spec.keeps_dtype else values, indices


def _pool_computed(planes: torch.Tensor, spec: PoolSpec, channels: int) -> TensorResult:
    # `to` takes a microsecond even if the dtype is the same.
    computed = _computed_in(planes.dtype, keeps_dtype=spec.keeps_dtype)
    values = planes if planes.dtype is computed else planes.to(computed)
    if spec.takes_samples:
        values = values.reshape(-1, channels, *planes.shape[1:])
    values = values.contiguous()
    if spec.samples in (None, len(values)):
        pooled, indices = _applied(values, spec)
    else:
        # The samples of several payloads, each of which has as many as the parameters have rows.
        pooled, indices = _joined([_applied(payload, spec) for payload in values.split(spec.samples)])
    returned = planes.dtype if spec.keeps_dtype or planes.is_floating_point() else torch.float32
    return (pooled if pooled.dtype is returned else pooled.to(returned)).contiguous(), indices


def _applied(values: torch.Tensor, spec: PoolSpec) -> TensorResult:
    result = FUNCTIONS[spec.operator](values, spec)
    return result if isinstance(result, tuple) else (result, None)


def _joined(results: list[TensorResult]) -> TensorResult:
    values, indices = zip(*results, strict=True)
    return torch.cat(values), None if indices[0] is None else torch.cat(indices)


def _computed_in(dtype: torch.dtype, *, keeps_dtype: bool) -> torch.dtype:
    """Return the dtype that an operator's function computes in."""
    if dtype in (torch.float16, torch.bfloat16):
        return torch.float32
    if dtype == torch.uint16 and keeps_dtype:
        return torch.int32
    if keeps_dtype or dtype in (torch.float32, torch.float64):
        return dtype
    return torch.float32 if dtype in (torch.uint8, torch.int8) else torch.float64


def _sequence(planes: torch.Tensor, spec: PoolSpec, channels: int) -> TensorResult:
    for layer in layers_of(spec):
        values, _ = pool(planes, layer, channels)
        planes, channels = as_planes(values, layer, channels)
    return planes, None


def as_planes(values: Values, layer: PoolSpec, channels: int) -> tuple[Values, int]:
    """Return the result of a layer as the planes of the next one, and their number in a sample."""
    if layer.takes_samples and values.ndim in (2, layer.spatial_dims + 2):
        return values.reshape(-1, *values.shape[2:]), values.shape[1]
    return values, channels


def kernel_for(spec: PoolSpec, spatial: tuple[int, ...], dtype: np.dtype) -> Kernel | None:
    """Return the numpy kernel for planes of this spatial shape and dtype; None if torch must pool them.

    The kernel takes planes of any strides and returns contiguous values. It returns None for planes that torch must
    pool. Order statistics have torch's bits, and so have the means and power sums of windows. For large windows, use
    the kernel of `sliding_kernel_for` if there is one; it adds in another order than torch.
    """
    kernels = KERNELS.get(spec.operator)
    if kernels is None or 0 in spatial or getattr(spec, "return_indices", False):
        return None
    if dtype in HALF_DTYPES:
        return through_float32(kernels.factory, spec, spatial, dtype, torch_bits=kernels.torch_bits)
    return kernels.factory(spec, spatial, dtype)


def sliding_kernel_for(spec: PoolSpec, spatial: tuple[int, ...], dtype: np.dtype) -> SlidingKernel | None:
    """Return the kernel that takes torch's place if torch would read each value too often; None if it would not.

    It pools every number of planes. Extremes and indices have torch's bits, so `kernel_for` may be tried first. Means
    and power sums have not: if this function returns a kernel for their spec, nothing else may pool such planes.
    """
    kernels = KERNELS.get(spec.operator)
    factory = None if kernels is None else kernels.sliding_factory
    return None if factory is None or 0 in spatial else factory(spec, spatial, dtype)


def _empty_result(planes: torch.Tensor, spec: PoolSpec, channels: int) -> TensorResult:
    # One channel at least, because torch accepts a batch without samples but no sample without channels.
    shape = output_shape(spec.of_samples(slice(0)), (0, max(channels, 1), *planes.shape[1:]))
    if not spec.takes_samples and not isinstance(spec, SEQUENCES):
        shape = (0, *shape[2:])
    keeps_dtype = result_dtype(spec, np.dtype(np.uint8)) == np.uint8 or planes.is_floating_point()
    values = planes.new_empty(shape, dtype=planes.dtype if keeps_dtype else torch.float32)
    indices = planes.new_empty(shape, dtype=torch.int64) if getattr(spec, "return_indices", False) else None
    return values, indices
