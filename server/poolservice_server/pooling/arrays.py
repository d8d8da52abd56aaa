"""What the processor pools in numpy alone.

A call of torch's takes some ten microseconds where other code ran in between, since its way to a kernel leads through
much of a large library that is not in the caches; numpy's takes one or two. That is most of what a small item costs.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from poolservice.specs import AvgPool1d, PoolSpec
from poolservice_server.pooling import folds, slices
from poolservice_server.pooling.slices import Array
from poolservice_server.pooling.windows import window_of

_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
_COMPARED = (*_FLOATS, *map(np.dtype, (np.uint8, np.int8, np.int16, np.int32, np.int64)))

# float32 holds the sums of so many bytes exactly.
_BYTES_IN_FLOAT32 = 2**16


def pool(planes: Array, spec: PoolSpec) -> Array | None:
    """Pool planes (P, *spatial), P > 0, any strides: the bits of `operators.pool`; None where that is torch's to do."""
    operator = _OPERATORS.get(spec.operator)
    return None if operator is None else operator(planes, spec)


def _max_pool(planes: Array, spec: Any) -> Array | None:
    return _extreme(planes, spec, slices.window_max)


def _min_pool(planes: Array, spec: Any) -> Array | None:
    return _extreme(planes, spec, slices.window_min)


def _extreme(planes: Array, spec: Any, extreme: Callable[..., Array]) -> Array | None:
    if spec.return_indices or planes.dtype not in _COMPARED:
        return None
    window = window_of(spec)
    if not slices.suit(planes, window) or (planes.ndim == 2 and planes.dtype in _FLOATS):
        return None
    pooled = extreme(planes, window)
    return None if slices.sign_of_zero_is_open(planes, pooled) else pooled


def _avg_pool(planes: Array, spec: Any) -> Array | None:
    window = window_of(spec)
    if planes.dtype not in _FLOATS or window.ceil_mode or (any(window.padding) and not spec.count_include_pad):
        return None
    if not slices.suit_sum(planes, window):
        return None
    divisor = None if isinstance(spec, AvgPool1d) else spec.divisor_override
    total = slices.window_sum(planes, window)
    total /= divisor or math.prod(window.kernel_size)
    return total


def _global_avg_pool(planes: Array, _spec: Any) -> Array | None:
    count = math.prod(planes.shape[1:])
    if count == 0:
        return None
    if planes.dtype in _FLOATS:
        return folds.array_mean(planes)
    if planes.dtype != np.uint8:
        return None
    mean: Array = folds.byte_sums(planes).astype(np.float32 if count <= _BYTES_IN_FLOAT32 else np.float64) / count
    return mean.astype(np.float32, copy=False).reshape(-1, *(1,) * (planes.ndim - 1))


_OPERATORS: Mapping[str, Callable[[Array, Any], Array | None]] = MappingProxyType(
    {
        "max_pool": _max_pool,
        "min_pool": _min_pool,
        "avg_pool": _avg_pool,
        "global_avg_pool": _global_avg_pool,
    }
)
