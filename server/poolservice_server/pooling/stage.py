"""The stage of a request that pools: all its specs over one batch of planes."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch

from poolservice.specs import PoolSpec, WindowSpec
from poolservice_server.pooling import windows
from poolservice_server.pooling.interop import to_array, to_tensor
from poolservice_server.pooling.numpy_kernels import operators
from poolservice_server.pooling.torch_operators import extremes
from poolservice_server.pooling.torch_operators.dispatch import TensorResult, pool

ArrayResult = tuple[np.ndarray, np.ndarray | None]
Kernel = Callable[[np.ndarray], ArrayResult]

_SINGLE = np.dtype(np.float32)
_WHITE = 255
_WHITE_ARRAY = np.array(_WHITE, _SINGLE)


@dataclass(frozen=True)
class PoolStage:
    """Pools planes with each of its specs.

    Attributes:
        specs: how; the results come in this order.
        unit_scale: whether the planes are uint8 that stand for 0 to 1, a picture's. Results are then float32, those
            of the planes divided by 255: the same bits for order statistics, within rounding for means.
    """

    specs: tuple[PoolSpec, ...]
    unit_scale: bool = False

    def __hash__(self) -> int:
        return self._hash

    def __call__(self, planes: torch.Tensor) -> list[TensorResult]:
        """Pool (P, *spatial) planes, of any strides; uint8 with unit_scale."""
        if not self.unit_scale:
            return [pool(planes, spec) for spec in self.specs]
        # A quarter of the memory to walk through, and only the results are left to divide.
        scaled = None if all(map(_commutes_with_scale, self.specs)) else _scaled(planes)
        results = []
        for spec in self.specs:
            if scaled is not None and not _commutes_with_scale(spec):
                results.append(pool(scaled, spec))
            else:
                values, indices = pool(planes, spec)
                results.append((_scaled(values), indices))
        return results

    def on_arrays(self, planes: np.ndarray) -> list[ArrayResult]:
        """The same over arrays, on the processor: by numpy alone what is sooner so, the rest by torch."""
        return [kernel_for(planes) for kernel_for in _kernels(self, planes.shape[1:], planes.dtype)]

    @cached_property
    def _hash(self) -> int:
        # Asked for at every call, and that of the specs walks every parameter.
        return hash((self.specs, self.unit_scale))


@lru_cache(maxsize=1024)
def _kernels(stage: PoolStage, spatial: tuple[int, ...], dtype: np.dtype) -> tuple[Kernel, ...]:
    """What pools planes of this shape and type with each of the specs."""
    return tuple(_kernel(spec, stage.unit_scale, spatial, dtype) for spec in stage.specs)


def _kernel(spec: PoolSpec, unit_scale: bool, spatial: tuple[int, ...], dtype: np.dtype) -> Kernel:
    if unit_scale:
        return _scaled_kernel(spec, spatial, dtype)
    direct = operators.kernel_for(spec, spatial, dtype)
    if direct is None:
        return lambda planes: _by_torch(planes, spec)

    def pooled(planes: np.ndarray) -> ArrayResult:
        values = direct(planes) if len(planes) else None
        return _by_torch(planes, spec) if values is None else (values, None)

    return pooled


def _scaled_kernel(spec: PoolSpec, spatial: tuple[int, ...], dtype: np.dtype) -> Kernel:
    commutes = _commutes_with_scale(spec)
    kernel_for = _kernel(spec, False, spatial, dtype if commutes else _SINGLE)

    def pooled(planes: np.ndarray) -> ArrayResult:
        if not commutes:
            return kernel_for(np.divide(planes, _WHITE_ARRAY, dtype=_SINGLE))
        values, indices = kernel_for(planes)
        return np.divide(values, _WHITE_ARRAY, dtype=_SINGLE), indices

    return pooled


def _by_torch(planes: np.ndarray, spec: PoolSpec) -> ArrayResult:
    values, indices = pool(to_tensor(planes), spec)
    return to_array(values), None if indices is None else to_array(indices)


def _commutes_with_scale(spec: PoolSpec) -> bool:
    """Whether pooling bytes and dividing after is the same as dividing first."""
    if spec.operator in extremes.OPERATORS:
        # A window of padding alone gives -inf of floats, which no byte stands for.
        return not isinstance(spec, WindowSpec) or windows.see_input(spec.window)
    return spec.operator != "lp_pool"


def _scaled(values: torch.Tensor) -> torch.Tensor:
    return values.to(torch.float32).div_(_WHITE) if values.dtype == torch.uint8 else values / _WHITE
