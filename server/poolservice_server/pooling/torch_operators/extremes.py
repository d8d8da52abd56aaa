"""Order statistics: maxima and minima, exact in the input's own type.

NaN wins over everything, as in torch, and with several in a window it is the last one's index that counts; among
equal values the first counts. 0.0 and -0.0 are equal, so the sign of a zero is that of the window's first zero.
A minimum is the maximum of the values in reverse order, ties, NaN and indices included.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F

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
from poolservice_server.pooling.exact_sums import WHOLE_IN_FLOAT64
from poolservice_server.pooling.windows import as_width, window_of

TensorResult = tuple[torch.Tensor, torch.Tensor | None]
Maximum = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]

# A float of torch's kernels that holds every value of an integer type they lack; int64 has none.
_FLOATS = {
    torch.uint8: torch.float32,
    torch.int8: torch.float32,
    torch.int16: torch.float32,
    torch.int32: torch.float64,
}


def max_pool(planes: torch.Tensor, spec: MaxPool1d | MaxPool2d | MaxPool3d) -> TensorResult:
    """Maximum of each window: y[i] = max over k of x[stride * i - padding + dilation * k].

    What lies in the padding is less than everything: -inf, or the least value of an integer type.

    Shape:
        (P, *spatial) to (P, *out), as `shapes.windows` counts them.
    """
    window = window_of(spec)
    if spec.return_indices:
        return window_max_with_indices(planes, window)
    return window_max(planes, window), None


def min_pool(planes: torch.Tensor, spec: MinPool1d | MinPool2d | MinPool3d) -> TensorResult:
    """Minimum of each window: y[i] = min over k of x[stride * i - padding + dilation * k].

    What lies in the padding is more than everything: inf, or the greatest value of an integer type.

    Shape:
        (P, *spatial) to (P, *out), as `shapes.windows` counts them.
    """
    window = window_of(spec)
    if spec.return_indices:
        values, indices = window_max_with_indices(_reversed(planes), window)
        return _reversed(values), indices
    return _reversed(window_max(_reversed(planes), window)), None


def adaptive_max_pool(
    planes: torch.Tensor, spec: AdaptiveMaxPool1d | AdaptiveMaxPool2d | AdaptiveMaxPool3d
) -> TensorResult:
    """Maximum of windows that tile the plane: y[i] = max of x[floor(i * L / out)] to x[ceil((i + 1) * L / out) - 1].

    Shape:
        (P, *spatial) to (P, *output_size), where None keeps the input's size.
    """
    values, indices = _through_floats(planes, lambda floats: _adaptive_max(floats, spec.sizes))
    return values, indices if spec.return_indices else None


def global_max_pool(planes: torch.Tensor, spec: GlobalSpec) -> TensorResult:
    """Maximum of each plane: y = max of x.

    Shape:
        (P, *spatial) to (P, 1, ...).
    """
    return _plane_extreme(planes, torch.amax), None


def global_min_pool(planes: torch.Tensor, spec: GlobalSpec) -> TensorResult:
    """Minimum of each plane: y = min of x.

    Shape:
        (P, *spatial) to (P, 1, ...).
    """
    return _plane_extreme(planes, torch.amin), None


#: The operators whose values are some of the input's.
OPERATORS: Mapping[str, Callable[[torch.Tensor, Any], TensorResult]] = MappingProxyType(
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
    kernel = window.kernel_size
    if not planes.is_cpu:
        return window_max_with_indices(planes, window)[0]
    if len(kernel) == 3:
        return torch.max_pool3d(planes.contiguous(), *window)
    if len(kernel) == 2:
        return torch.max_pool2d(planes.contiguous(), *window)
    if planes.is_floating_point() and kernel[0] <= planes.shape[1]:
        return torch.max_pool1d(planes.contiguous(), *window)
    # max_pool1d lacks the integers, and walks through the whole length of a window, which may be 2^30.
    return torch.max_pool2d(planes.contiguous().unsqueeze(1), *as_width(window)).squeeze(1)


def window_max_with_indices(planes: torch.Tensor, window: Window) -> tuple[torch.Tensor, torch.Tensor]:
    """The maximum of each window of each plane, and its flat position in the plane."""
    if len(window.kernel_size) == 1:
        values, indices = window_max_with_indices(planes.unsqueeze(1), as_width(window))
        return values.squeeze(1), indices.squeeze(1)
    if planes.is_cpu:
        return _window_max(planes, window)
    return _through_floats(planes, lambda floats: _window_max(floats, window))


def _window_max(planes: torch.Tensor, window: Window) -> tuple[torch.Tensor, torch.Tensor]:
    max_pool = F.max_pool2d if len(window.kernel_size) == 2 else F.max_pool3d
    values, indices = max_pool(planes.contiguous(), *window, return_indices=True)
    return values, indices


def _adaptive_max(planes: torch.Tensor, sizes: tuple[int | None, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    if len(sizes) == 1:
        values, indices = _adaptive_max(planes.unsqueeze(1), (None, *sizes))
        return values.squeeze(1), indices.squeeze(1)
    adaptive_max_pool: Any = F.adaptive_max_pool2d if len(sizes) == 2 else F.adaptive_max_pool3d
    values, indices = adaptive_max_pool(planes.contiguous(), sizes, return_indices=True)
    return values, indices


def _through_floats(planes: torch.Tensor, largest: Maximum) -> tuple[torch.Tensor, torch.Tensor]:
    """`largest` of `planes`, through a type that its kernel takes: exact, for all that counts is the order."""
    if planes.is_floating_point():
        return largest(planes)
    lowest = torch.iinfo(planes.dtype).min
    if planes.dtype in _FLOATS:
        values, indices = largest(planes.to(_FLOATS[planes.dtype]))
        return values.clamp_(min=lowest).to(planes.dtype), indices
    if max(int(planes.amax()), -int(planes.amin())) < WHOLE_IN_FLOAT64:
        values, indices = largest(planes.to(torch.float64))
        # -inf, which a window of padding alone gives, stands for the least integer.
        return values.clamp_(min=float(lowest)).to(planes.dtype), indices
    in_order, ranks = torch.unique(planes, return_inverse=True)
    values, indices = largest(ranks.to(torch.float64))
    # A window of padding alone gives -inf, and what is less than every rank stands for the least integer.
    by_rank = torch.cat((in_order.new_tensor([lowest]), in_order))
    return by_rank[(values + 1).clamp_(min=0).to(torch.int64)], indices


def _plane_extreme(planes: torch.Tensor, extreme: Callable[..., torch.Tensor]) -> torch.Tensor:
    ones = (1,) * (planes.ndim - 1)
    values = extreme(planes.flatten(1), 1)
    # Of several zeros a reduction takes the sign of any, not of the first.
    if not planes.is_floating_point() or bool(values.all()) or not _holds_negative_zero(planes):
        return values.view(-1, *ones)
    if extreme is torch.amax:
        return _adaptive_max(planes, ones)[0]
    return -_adaptive_max(-planes, ones)[0]


def _holds_negative_zero(planes: torch.Tensor) -> bool:
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[planes.element_size()]
    return int(planes.view(integer).amin()) == torch.iinfo(integer).min


def _reversed(values: torch.Tensor) -> torch.Tensor:
    # Exact for every value, and its own inverse; -x is not, for the least integer and for unsigned ones.
    return -values if values.is_floating_point() else values.bitwise_not()
