"""The execution of a `PoolStage`: all of its specs over one batch of planes, on tensors or on arrays."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch

from poolservice.specs import PoolSpec, WindowSpec
from poolservice_server.operator_shapes import ORDER_STATISTICS
from poolservice_server.pool_stage import PoolStage, SpecResult, Stop, WorkStopped
from poolservice_server.pooling.array_types import TensorResult
from poolservice_server.pooling.dispatch import OPERATORS, kernel_for, pool
from poolservice_server.pooling.interop import to_array, to_tensor
from poolservice_server.pooling.window_geometry import every_window_holds_input, window_of

# A kernel, with torch for the planes that it declines and, for images, the division by 255.
_SpecFunction = Callable[[np.ndarray], SpecResult]

_FLOAT32 = np.dtype(np.float32)
_WHITE = 255
_WHITE_ARRAY = np.array(_WHITE, _FLOAT32)


def run_on_tensors(stage: PoolStage, planes: torch.Tensor) -> list[TensorResult]:
    """Pool planes with each spec of the stage, on the device that holds them.

    Shape:
        planes: (P, *spatial), any strides; uint8 if the stage has unit_scale.
    """
    if not stage.unit_scale:
        return [pool(planes, spec) for spec in stage.specs]
    # Pooling the bytes reads a quarter of the memory, and leaves only the results to be divided.
    scaled = None if all(map(_commutes_with_scale, stage.specs)) else _scale(planes)
    results = []
    for spec in stage.specs:
        if scaled is not None and not _commutes_with_scale(spec):
            results.append(pool(scaled, spec))
        else:
            values, indices = pool(planes, spec)
            results.append((_scale(values), indices))
    return results


def run_on_arrays(stage: PoolStage, planes: np.ndarray, stop: Stop = lambda: False) -> tuple[SpecResult, ...]:
    """Pool planes with each spec of the stage, on the CPU: in numpy if that is faster, else in torch.

    Shape:
        planes: (P, *spatial), any strides; uint8 if the stage has unit_scale.

    Raises:
        WorkStopped: `stop` returned True between two specs.
    """
    results: list[SpecResult] = []
    for function in _functions(stage, planes.shape[1:], planes.dtype):
        if results and stop():
            raise WorkStopped
        results.append(function(planes))
    return tuple(results)


@lru_cache(maxsize=1024)
def _functions(stage: PoolStage, spatial: tuple[int, ...], dtype: np.dtype) -> tuple[_SpecFunction, ...]:
    """Return the function of each spec for planes of this spatial shape and dtype."""
    return tuple(_function(spec, stage.unit_scale, spatial, dtype) for spec in stage.specs)


def _function(spec: PoolSpec, unit_scale: bool, spatial: tuple[int, ...], dtype: np.dtype) -> _SpecFunction:
    if unit_scale:
        return _scaled_function(spec, spatial, dtype)
    kernel = kernel_for(spec, spatial, dtype)
    if kernel is None:
        return lambda planes: _run_in_torch(planes, spec)

    def run(planes: np.ndarray) -> SpecResult:
        values = kernel(planes) if len(planes) else None
        return _run_in_torch(planes, spec) if values is None else SpecResult(values)

    return run


def _scaled_function(spec: PoolSpec, spatial: tuple[int, ...], dtype: np.dtype) -> _SpecFunction:
    if not _commutes_with_scale(spec):
        of_floats = _function(spec, False, spatial, _FLOAT32)
        return lambda planes: of_floats(np.divide(planes, _WHITE_ARRAY, dtype=_FLOAT32))
    of_bytes = _function(spec, False, spatial, dtype)

    def run(planes: np.ndarray) -> SpecResult:
        values, indices = of_bytes(planes)
        return SpecResult(np.divide(values, _WHITE_ARRAY, dtype=_FLOAT32), indices)

    return run


def _run_in_torch(planes: np.ndarray, spec: PoolSpec) -> SpecResult:
    values, indices = pool(to_tensor(planes), spec)
    return SpecResult(to_array(values), None if indices is None else to_array(indices))


def _commutes_with_scale(spec: PoolSpec) -> bool:
    """Return True if pooling the bytes and dividing the result by 255 equals dividing first."""
    if spec.operator in ORDER_STATISTICS and isinstance(spec, WindowSpec):
        # A window that lies in the padding alone gives -inf for floats, and no byte stands for that.
        return every_window_holds_input(window_of(spec))
    return OPERATORS[spec.operator].commutes_with_scale


def _scale(values: torch.Tensor) -> torch.Tensor:
    return values.to(torch.float32).div_(_WHITE) if values.dtype == torch.uint8 else values / _WHITE
