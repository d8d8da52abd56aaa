"""The execution of a `PoolStage`: all of its specs over one batch of planes, on tensors or on arrays."""

import math
import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from poolservice.specs import GlobalSpec, PoolSpec, WindowSpec
from poolservice_server.cache import cached
from poolservice_server.kernel_thresholds import SAMPLE_GROUP_BYTES, TILE_GROUP_BYTES, WINDOW_GROUP_BYTES
from poolservice_server.operator_shapes import SEQUENCES, layer_shapes, layers_of, plane_result, result_dtype
from poolservice_server.operators import OPERATORS, ORDER_STATISTICS, stacks
from poolservice_server.pool_stage import PoolStage, SpecResult, Stop, WorkStopped
from poolservice_server.pooling.array_types import TensorResult
from poolservice_server.pooling.dispatch import as_planes, kernel_for, pool, sliding_kernel_for
from poolservice_server.pooling.interop import HALF_DTYPES, to_array, to_tensor
from poolservice_server.pooling.window_geometry import every_window_holds_input, window_of

# A kernel, with torch for the planes that it declines and, for images, the division by 255.
_SpecFunction = Callable[[np.ndarray, Stop], SpecResult]

_FLOAT32 = np.dtype(np.float32)
# The mean of whole planes of these dtypes, and of interleaved bytes, copies no plane.
_WITHOUT_COPIES = (_FLOAT32, np.dtype(np.float64))
_UINT16, _INT32 = np.dtype(np.uint16), np.dtype(np.int32)


def never() -> bool:
    """Return False: somebody waits for the results until they are complete."""
    return False


def run_on_tensors(stage: PoolStage, planes: torch.Tensor) -> list[TensorResult]:
    """Pool planes with each spec of the stage, on the device that holds them.

    Shape:
        planes: (P, *spatial), any strides; uint8 or uint16 if the stage has unit_scale.
    """
    if not stage.unit_scale:
        return [pool(planes, spec, stage.channels) for spec in stage.specs]
    # Pooling the integers reads less memory, and leaves only the results to be divided.
    white = torch.iinfo(planes.dtype).max
    scaled = None if all(map(_commutes_with_scale, stage.specs)) else _scale(planes, white)
    results = []
    for spec in stage.specs:
        if scaled is not None and not _commutes_with_scale(spec):
            results.append(pool(scaled, spec, stage.channels))
        else:
            values, indices = pool(planes, spec, stage.channels)
            results.append((_scale(values, white), indices))
    return results


def run_on_arrays(stage: PoolStage, planes: np.ndarray, stop: Stop = never) -> tuple[SpecResult, ...]:
    """Pool planes with each spec of the stage, on the CPU: in numpy if that is faster, else in torch.

    Args:
        stage: what to compute.
        planes: (P, *spatial), any strides; uint8 or uint16 if the stage has unit_scale.
        stop: called between the pieces of work that takes long.

    Raises:
        WorkStopped: `stop` returned True.
    """
    functions, group_sizes, max_ungrouped = _functions(stage, planes.shape[1:], planes.dtype)
    if len(planes) <= max_ungrouped:
        return tuple([function(planes, stop) for function in functions])
    return tuple(
        [_in_groups(function, planes, size, stop) for function, size in zip(functions, group_sizes, strict=True)]
    )


class _Functions(NamedTuple):
    """The functions of a stage's specs for planes of one spatial shape and dtype.

    Attributes:
        of_specs: the function of each spec.
        group_sizes: how many planes each of them pools at a time, so that what it computes meanwhile stays small.
        max_ungrouped: up to how many planes all of them pool all planes at a time.
    """

    of_specs: tuple[_SpecFunction, ...]
    group_sizes: tuple[int, ...]
    max_ungrouped: int


@cached("kernels")
def _functions(stage: PoolStage, spatial: tuple[int, ...], dtype: np.dtype) -> _Functions:
    functions = tuple(
        _scaled_function(spec, stage.channels, spatial, dtype)
        if stage.unit_scale
        else _function(spec, stage.channels, spatial, dtype)
        for spec in stage.specs
    )
    group_sizes = tuple(_group_size(spec, stage.channels, spatial, dtype) for spec in stage.specs)
    return _Functions(
        functions,
        tuple(max(1, size) for size in group_sizes),
        min(group_sizes),
    )


def _group_size(spec: PoolSpec, channels: int, spatial: tuple[int, ...], dtype: np.dtype) -> int:
    """Return how many planes to pool at a time; 0 if a single plane is larger than a group."""
    if not stacks(spec):
        return sys.maxsize  # These pool one sample at a time.
    if isinstance(spec, GlobalSpec) and (dtype in _WITHOUT_COPIES or spec.operator in ORDER_STATISTICS):
        return sys.maxsize if dtype not in HALF_DTYPES else TILE_GROUP_BYTES // (math.prod(spatial) * dtype.itemsize)
    result_values = math.prod(plane_result(spec, spatial))
    indexed = 8 if getattr(spec, "return_indices", False) else 0
    result_bytes = result_values * (result_dtype(spec, dtype).itemsize + indexed)
    group_bytes = WINDOW_GROUP_BYTES if isinstance(spec, WindowSpec) else TILE_GROUP_BYTES
    size = group_bytes // max(math.prod(spatial) * dtype.itemsize, result_bytes, 1)
    return max(1, size // channels) * channels if spec.differs_by_channel else size


def _in_groups(function: _SpecFunction, planes: np.ndarray, size: int, stop: Stop) -> SpecResult:
    """Pool `size` planes at a time."""
    if stop():
        raise WorkStopped
    if len(planes) <= size:
        return function(planes, stop)
    values, indices = function(planes[:size], stop)
    result = SpecResult(
        np.empty((len(planes), *values.shape[1:]), values.dtype),
        None if indices is None else np.empty((len(planes), *indices.shape[1:]), indices.dtype),
    )
    for start in range(0, len(planes), size):
        if start:
            if stop():
                raise WorkStopped
            values, indices = function(planes[start : start + size], stop)
        result.values[start : start + size] = values
        if result.indices is not None:
            result.indices[start : start + size] = indices
    return result


def _function(spec: PoolSpec, channels: int, spatial: tuple[int, ...], dtype: np.dtype) -> _SpecFunction:
    if isinstance(spec, SEQUENCES):
        return _sequence(spec, channels, spatial, dtype)
    if not stacks(spec):
        return _function_of_samples(spec, channels, spatial)
    if dtype == _UINT16:
        return _function_of_uint16(spec, channels, spatial)
    kernel = kernel_for(spec, spatial, dtype)
    sliding = sliding_kernel_for(spec, spatial, dtype)
    if sliding is not None and spec.operator not in ORDER_STATISTICS:
        return lambda planes, stop: sliding(planes, stop) if len(planes) else _run_in_torch(planes, spec, channels)

    def run(planes: np.ndarray, stop: Stop) -> SpecResult:
        if len(planes) == 0:
            return _run_in_torch(planes, spec, channels)
        values = None if kernel is None else kernel(planes)
        if values is not None:
            return SpecResult(values)
        return _run_in_torch(planes, spec) if sliding is None else sliding(planes, stop)

    return run


def _function_of_samples(spec: PoolSpec, channels: int, spatial: tuple[int, ...]) -> _SpecFunction:
    """Return a function that pools one sample at a time, so that its bits do not depend on the others.

    If the channels are independent, it pools as many of a sample at a time as fit into the caches. The planes may be
    those of several payloads, of which each has as many samples as the spec has rows of parameters.
    """
    rows = spec.samples
    size = channels
    if not spec.takes_samples:
        size = max(1, min(channels, SAMPLE_GROUP_BYTES // (4 * math.prod(spatial))))

    def run(planes: np.ndarray, stop: Stop) -> SpecResult:
        if rows is None and len(planes) == size == channels:
            return _run_in_torch(planes, spec, channels)
        pieces: list[SpecResult] = []
        for number, sample in enumerate(range(0, len(planes), channels)):
            own = spec if rows is None else spec.of_samples(slice(number % rows, number % rows + 1))
            for start in range(sample, sample + channels, size):
                if pieces and stop():
                    raise WorkStopped
                pieces.append(_run_in_torch(planes[start : min(start + size, sample + channels)], own, channels))
        if len(pieces) < 2:
            return pieces[0] if pieces else _run_in_torch(planes, spec, channels)
        values, indices = zip(*pieces, strict=True)
        return SpecResult(np.concatenate(values), None if indices[0] is None else np.concatenate(indices))

    return run


def _sequence(spec: PoolSpec, channels: int, spatial: tuple[int, ...], dtype: np.dtype) -> _SpecFunction:
    """Return a function that applies the layers of a Sequential."""
    shapes = layer_shapes(spec.of_samples(slice(1)), (1, channels, *spatial))
    steps = []
    taken, taken_dtype = (1, channels, *spatial), dtype
    for layer, shape in zip(layers_of(spec), shapes, strict=True):
        size = max(1, _group_size(layer, taken[1], taken[2:], taken_dtype))
        steps.append((layer, taken[1], size, _function(layer, taken[1], taken[2:], taken_dtype)))
        taken, taken_dtype = shape, result_dtype(layer, taken_dtype)

    def run(planes: np.ndarray, stop: Stop) -> SpecResult:
        if len(planes) == 0:
            return _run_in_torch(planes, spec, channels)
        for layer, layer_channels, size, function in steps:
            values = _in_groups(function, planes, size, stop).values
            planes, _ = as_planes(values, layer, layer_channels)
        return SpecResult(planes)

    return run


def _function_of_uint16(spec: PoolSpec, channels: int, spatial: tuple[int, ...]) -> _SpecFunction:
    """Return a function that pools uint16 as int32, which holds all of its values and which every kernel supports."""
    of_int32 = _function(spec, channels, spatial, _INT32)
    keeps_dtype = spec.operator in ORDER_STATISTICS

    def run(planes: np.ndarray, stop: Stop) -> SpecResult:
        values, indices = of_int32(planes.astype(_INT32), stop)
        return SpecResult(values.astype(_UINT16) if keeps_dtype else values, indices)

    return run


def _scaled_function(spec: PoolSpec, channels: int, spatial: tuple[int, ...], dtype: np.dtype) -> _SpecFunction:
    white = np.array(np.iinfo(dtype).max, _FLOAT32)
    if not _commutes_with_scale(spec):
        of_floats = _function(spec, channels, spatial, _FLOAT32)
        return lambda planes, stop: of_floats(np.divide(planes, white, dtype=_FLOAT32), stop)
    of_integers = _function(spec, channels, spatial, dtype)

    def run(planes: np.ndarray, stop: Stop) -> SpecResult:
        values, indices = of_integers(planes, stop)
        return SpecResult(np.divide(values, white, dtype=_FLOAT32), indices)

    return run


def _run_in_torch(planes: np.ndarray, spec: PoolSpec, channels: int = 1) -> SpecResult:
    values, indices = pool(to_tensor(planes), spec, channels)
    return SpecResult(to_array(values), None if indices is None else to_array(indices))


def _commutes_with_scale(spec: PoolSpec) -> bool:
    """Return True if pooling the integers of an image and dividing the result equals dividing first."""
    commutes = OPERATORS[spec.operator].commutes_with_scale
    if commutes and spec.operator in ORDER_STATISTICS and isinstance(spec, WindowSpec):
        # A window that lies in the padding alone gives -inf for floats, and no integer stands for that.
        return every_window_holds_input(window_of(spec))
    return commutes


def _scale(values: torch.Tensor, white: int) -> torch.Tensor:
    return values / white if values.is_floating_point() else values.to(torch.float32).div_(white)
