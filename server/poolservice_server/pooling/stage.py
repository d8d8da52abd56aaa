"""The stage of a request that pools: all its specs over one batch of planes."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch

from poolservice.specs import PoolSpec, WindowSpec
from poolservice_server.pooling import arrays, order, windows
from poolservice_server.pooling.operators import Pooled, pool
from poolservice_server.pooling.views import to_array, to_tensor

PooledArrays = tuple[np.ndarray, np.ndarray | None]
Way = Callable[[np.ndarray], PooledArrays]

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

    def __call__(self, planes: torch.Tensor) -> list[Pooled]:
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

    def on_arrays(self, planes: np.ndarray) -> list[PooledArrays]:
        """The same over arrays, on the processor: by numpy alone what is sooner so, the rest by torch."""
        return [way(planes) for way in _ways(self, planes.shape[1:], planes.dtype)]

    @cached_property
    def _hash(self) -> int:
        # Asked for at every call, and that of the specs walks every parameter.
        return hash((self.specs, self.unit_scale))


@lru_cache(maxsize=1024)
def _ways(stage: PoolStage, spatial: tuple[int, ...], dtype: np.dtype) -> tuple[Way, ...]:
    """What pools planes of this shape and type with each of the specs."""
    return tuple(_way(spec, stage.unit_scale, spatial, dtype) for spec in stage.specs)


def _way(spec: PoolSpec, unit_scale: bool, spatial: tuple[int, ...], dtype: np.dtype) -> Way:
    if unit_scale:
        return _scaled_way(spec, spatial, dtype)
    direct = arrays.way(spec, spatial, dtype)
    if direct is None:
        return lambda planes: _by_torch(planes, spec)

    def pooled(planes: np.ndarray) -> PooledArrays:
        values = direct(planes) if len(planes) else None
        return _by_torch(planes, spec) if values is None else (values, None)

    return pooled


def _scaled_way(spec: PoolSpec, spatial: tuple[int, ...], dtype: np.dtype) -> Way:
    commutes = _commutes_with_scale(spec)
    way = _way(spec, False, spatial, dtype if commutes else _SINGLE)

    def pooled(planes: np.ndarray) -> PooledArrays:
        if not commutes:
            return way(np.divide(planes, _WHITE_ARRAY, dtype=_SINGLE))
        values, indices = way(planes)
        return np.divide(values, _WHITE_ARRAY, dtype=_SINGLE), indices

    return pooled


def _by_torch(planes: np.ndarray, spec: PoolSpec) -> PooledArrays:
    values, indices = pool(to_tensor(planes), spec)
    return to_array(values), None if indices is None else to_array(indices)


def _commutes_with_scale(spec: PoolSpec) -> bool:
    """Whether pooling bytes and dividing after is the same as dividing first."""
    if spec.operator in order.OPERATORS:
        # A window of padding alone gives -inf of floats, which no byte stands for.
        return not isinstance(spec, WindowSpec) or windows.see_input(spec.window)
    return spec.operator != "lp_pool"


def _scaled(values: torch.Tensor) -> torch.Tensor:
    return values.to(torch.float32).div_(_WHITE) if values.dtype == torch.uint8 else values / _WHITE
