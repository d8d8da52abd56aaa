"""Order statistics: maxima and minima, exact in the input's own type.

NaN wins over everything, as in torch, and with several in a window it is the last one's index that counts; among
equal values the first counts. 0.0 and -0.0 are equal, so the sign of a zero is that of the window's first zero.
A minimum is the maximum of the values in reverse order, ties, NaN and indices included.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  (as torch's documentation names it)

from poolservice.specs import (
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AdaptiveMaxPool3d,
    GlobalSpec,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
    MinPool1d,
    MinPool2d,
    MinPool3d,
    Window,
)
from poolservice_server.pooling.windows import as_width

Pooled = tuple[torch.Tensor, torch.Tensor | None]

# A type of torch's adaptive kernels that holds every value of one they lack.
_WIDER = {
    torch.uint8: torch.float32,
    torch.int8: torch.float32,
    torch.int16: torch.float32,
    torch.int32: torch.float64,
}


def max_pool(planes: torch.Tensor, spec: MaxPool1d | MaxPool2d | MaxPool3d) -> Pooled:
    """Maximum of each window: y[i] = max over k of x[stride * i - padding + dilation * k].

    What lies in the padding is less than everything: -inf, or the least value of an integer type.

    Shape:
        (P, *spatial) to (P, *out), as `shapes.windows` counts them.
    """
    if spec.return_indices:
        return window_max_with_indices(planes, spec.window)
    return window_max(planes, spec.window), None


def min_pool(planes: torch.Tensor, spec: MinPool1d | MinPool2d | MinPool3d) -> Pooled:
    """Minimum of each window: y[i] = min over k of x[stride * i - padding + dilation * k].

    What lies in the padding is more than everything: inf, or the greatest value of an integer type.

    Shape:
        (P, *spatial) to (P, *out), as `shapes.windows` counts them.
    """
    reverse = _reversed(planes)
    if spec.return_indices:
        values, indices = window_max_with_indices(reverse, spec.window)
        return _reversed(values), indices
    return _reversed(window_max(reverse, spec.window)), None


def adaptive_max_pool(planes: torch.Tensor, spec: AdaptiveMaxPool1d | AdaptiveMaxPool2d | AdaptiveMaxPool3d) -> Pooled:
    """Maximum of windows that tile the plane: y[i] = max of x[floor(i * L / out)] to x[ceil((i + 1) * L / out) - 1].

    Shape:
        (P, *spatial) to (P, *output_size), where None keeps the input's size.
    """
    if planes.dtype == torch.int64:
        return _adaptive_max_of_ranks(planes, spec.sizes, spec.return_indices)
    values, indices = _adaptive_max(planes.to(_WIDER.get(planes.dtype, planes.dtype)), spec.sizes)
    return values.to(planes.dtype), indices if spec.return_indices else None


def global_max_pool(planes: torch.Tensor, spec: GlobalSpec) -> Pooled:
    """Maximum of each plane: y = max of x.

    Shape:
        (P, *spatial) to (P, 1, ...).
    """
    return _plane_max(planes), None


def global_min_pool(planes: torch.Tensor, spec: GlobalSpec) -> Pooled:
    """Minimum of each plane: y = min of x.

    Shape:
        (P, *spatial) to (P, 1, ...).
    """
    return _reversed(_plane_max(_reversed(planes))), None


#: The operators whose values are some of the input's.
OPERATORS: Mapping[str, Callable[[torch.Tensor, Any], Pooled]] = MappingProxyType(
    {
        "max_pool": max_pool,
        "min_pool": min_pool,
        "adaptive_max_pool": adaptive_max_pool,
        "global_max_pool": global_max_pool,
        "global_min_pool": global_min_pool,
    }
)


def window_max(planes: torch.Tensor, window: Window) -> torch.Tensor:
    """The maximum of each window of each plane."""
    if len(window.kernel_size) == 1:
        # As the width of planes one high: max_pool1d lacks the integers, and walks through the whole length of a
        # window, which may be 2^30, where max_pool2d stays within the plane.
        return window_max(planes.unsqueeze(1), as_width(window)).squeeze(1)
    values: torch.Tensor = _MAX_POOL[len(window.kernel_size)](planes.contiguous(), *window)
    return values


def window_max_with_indices(planes: torch.Tensor, window: Window) -> tuple[torch.Tensor, torch.Tensor]:
    """The maximum of each window of each plane, and its flat position in the plane."""
    if len(window.kernel_size) == 1:
        values, indices = window_max_with_indices(planes.unsqueeze(1), as_width(window))
        return values.squeeze(1), indices.squeeze(1)
    values, indices = _MAX_POOL[len(window.kernel_size)](planes.contiguous(), *window, return_indices=True)
    return values, indices


_MAX_POOL = {2: F.max_pool2d, 3: F.max_pool3d}
_ADAPTIVE_MAX_POOL = {2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}


def _adaptive_max(planes: torch.Tensor, sizes: tuple[int | None, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    if len(sizes) == 1:
        values, indices = _adaptive_max(planes.unsqueeze(1), (None, *sizes))
        return values.squeeze(1), indices.squeeze(1)
    values, indices = _ADAPTIVE_MAX_POOL[len(sizes)](planes.contiguous(), sizes, return_indices=True)
    return values, indices


def _adaptive_max_of_ranks(planes: torch.Tensor, sizes: tuple[int | None, ...], return_indices: bool) -> Pooled:
    # No type of torch's adaptive kernels holds every int64, but all that counts is their order.
    ranks = planes.unique(return_inverse=True)[1]
    indices = _adaptive_max(ranks.to(torch.float64), sizes)[1]
    values = planes.flatten(1).gather(1, indices.flatten(1)).view(indices.shape)
    return values, indices if return_indices else None


def _plane_max(planes: torch.Tensor) -> torch.Tensor:
    return planes.amax(tuple(range(1, planes.ndim)), keepdim=True)


def _reversed(values: torch.Tensor) -> torch.Tensor:
    # Exact for every value, and its own inverse; -x is not, for the least integer and for unsigned ones.
    return -values if values.is_floating_point() else values.bitwise_not()
