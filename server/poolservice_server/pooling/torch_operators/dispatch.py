"""The operators, one pure function each, and the table that finds them.

An operator takes planes (P, *spatial) with any strides and its spec, and returns values (P, *out) and, where the
spec asks for them, int64 indices of the same shape. A plane is pooled on its own: the same bits come out whether it
is alone or among others, on one thread or many.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch

from poolservice.specs import PoolSpec
from poolservice_server.pooling.torch_operators import averages, extremes
from poolservice_server.shapes import output_shape

TensorResult = tuple[torch.Tensor, torch.Tensor | None]
Operator = Callable[[torch.Tensor, Any], TensorResult]


def pool(planes: torch.Tensor, spec: PoolSpec) -> TensorResult:
    """Pool each plane as `spec` says.

    Shape:
        planes: (P, *spatial), P may be 0, any strides; values and indices: (P, *out), contiguous.

    Types:
        float32, float64, float16, bfloat16, uint8, int8, int16, int32, int64. Order statistics keep the input's
        type and are exact in it. Means and power sums of float16 and bfloat16 are computed in float32 and rounded
        once; those of integers are computed exactly or in float64 and come as float32.

    Returns:
        The values, and for return_indices the flat position of each in its plane, else None.

    Raises:
        InvalidRequest: from `output_shape`, only where P is 0; a spec is otherwise taken as validated.
    """
    if planes.shape[0] == 0:
        return _nothing(planes, spec)
    return OPERATORS[spec.operator](planes, spec)


def _nothing(planes: torch.Tensor, spec: PoolSpec) -> TensorResult:
    shape = output_shape(spec, (0, 1, *planes.shape[1:]))
    shape = (0, *shape[2:])
    kept = spec.operator in extremes.OPERATORS or planes.is_floating_point()
    values = planes.new_empty(shape, dtype=planes.dtype if kept else torch.float32)
    indices = planes.new_empty(shape, dtype=torch.int64) if getattr(spec, "return_indices", False) else None
    return values, indices


#: Which function computes which operator. A new one is a message in the contract, a spec, a function and a row here.
OPERATORS: Mapping[str, Operator] = MappingProxyType({**extremes.OPERATORS, **averages.OPERATORS})
