"""The stage of a request that pools: all its specs over one batch of planes."""

from dataclasses import dataclass

import numpy as np
import torch

from poolservice.specs import PoolSpec, WindowSpec
from poolservice_server.pooling import arrays, order, slices, windows
from poolservice_server.pooling.operators import Pooled, pool
from poolservice_server.pooling.views import to_array, to_tensor

_WHITE = 255


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

    def on_arrays(self, planes: slices.Array) -> list[tuple[slices.Array, slices.Array | None]]:
        """The same over arrays, on the processor: by numpy alone what is sooner so, the rest by torch."""
        direct = [self._directly(planes, spec) for spec in self.specs]
        rest = tuple(spec for spec, values in zip(self.specs, direct, strict=True) if values is None)
        by_torch = iter(PoolStage(rest, self.unit_scale)(to_tensor(planes)) if rest else ())
        results = []
        for values in direct:
            indices = None
            if values is None:
                pooled, where = next(by_torch)
                values, indices = to_array(pooled), None if where is None else to_array(where)
            results.append((values, indices))
        return results

    def _directly(self, planes: slices.Array, spec: PoolSpec) -> slices.Array | None:
        if len(planes) == 0 or (self.unit_scale and not _commutes_with_scale(spec)):
            return None
        values = arrays.pool(planes, spec)
        if values is None or not self.unit_scale:
            return values
        return values.astype(np.float32, copy=False) / np.float32(_WHITE)


def _commutes_with_scale(spec: PoolSpec) -> bool:
    """Whether pooling bytes and dividing after is the same as dividing first."""
    if spec.operator in order.OPERATORS:
        # A window of padding alone gives -inf of floats, which no byte stands for.
        return not isinstance(spec, WindowSpec) or windows.see_input(spec.window)
    return spec.operator != "lp_pool"


def _scaled(values: torch.Tensor) -> torch.Tensor:
    return values.to(torch.float32).div_(_WHITE) if values.dtype == torch.uint8 else values / _WHITE
