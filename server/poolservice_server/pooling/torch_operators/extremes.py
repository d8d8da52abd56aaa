"""The maximum and minimum operators in torch, exact in the input's dtype.

As in torch, NaN wins over every other value, and the index is that of the last NaN in the window. Among equal values
the first one counts. 0.0 equals -0.0, so a zero has the sign of the first zero in its window. A minimum is the maximum
of the values in reverse order, and treats ties, NaN and indices alike.
"""

from collections.abc import Callable
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
from poolservice_server.pooling.array_types import TensorResult
from poolservice_server.pooling.sum_dtypes import INTEGERS_IN_FLOAT64
from poolservice_server.pooling.window_geometry import as_2d, window_of

_Maximum = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]

# For each integer dtype that torch's kernels lack, a float dtype that they have and that holds all of its values. No
# float dtype holds all values of int64.
_FLOAT_FOR = {
    torch.uint8: torch.float32,
    torch.int8: torch.float32,
    torch.int16: torch.float32,
    torch.int32: torch.float64,
}


def max_pool(planes: torch.Tensor, spec: MaxPool1d | MaxPool2d | MaxPool3d) -> TensorResult:
    """Maximum of each window: y[i] = max over k of x[stride * i - padding + dilation * k].

    The padding is -inf, or the smallest value of an integer dtype.

    Shape:
        (P, *spatial) to (P, *out), out from `shapes.window_grid`.
    """
    window = window_of(spec)
    if spec.return_indices:
        return window_max_with_indices(planes, window)
    return window_max(planes, window), None


def min_pool(planes: torch.Tensor, spec: MinPool1d | MinPool2d | MinPool3d) -> TensorResult:
    """Minimum of each window: y[i] = min over k of x[stride * i - padding + dilation * k].

    The padding is inf, or the largest value of an integer dtype.

    Shape:
        (P, *spatial) to (P, *out), out from `shapes.window_grid`.
    """
    window = window_of(spec)
    if spec.return_indices:
        values, indices = window_max_with_indices(_reversed(planes), window)
        return _reversed(values), indices
    return _reversed(window_max(_reversed(planes), window)), None


def adaptive_max_pool(
    planes: torch.Tensor, spec: AdaptiveMaxPool1d | AdaptiveMaxPool2d | AdaptiveMaxPool3d
) -> TensorResult:
    """Maximum of each tile of the plane: y[i] = max of x[floor(i * L / out)] to x[ceil((i + 1) * L / out) - 1].

    Shape:
        (P, *spatial) to (P, *output_size); None keeps the input's size.
    """
    values, indices = through_floats(planes, lambda floats: _adaptive_max(floats, spec.sizes))
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


def window_max(planes: torch.Tensor, window: Window) -> torch.Tensor:
    """Return the maximum of each window of each plane."""
    kernel = window.kernel_size
    if not planes.is_cpu:
        return window_max_with_indices(planes, window)[0]
    if len(kernel) == 3:
        return torch.max_pool3d(planes.contiguous(), *window)
    if len(kernel) == 2:
        return torch.max_pool2d(planes.contiguous(), *window)
    if planes.is_floating_point() and kernel[0] <= planes.shape[1]:
        return torch.max_pool1d(planes.contiguous(), *window)
    # max_pool1d lacks integer dtypes, and walks through the whole length of a window, which may be 2^30.
    return torch.max_pool2d(planes.contiguous().unsqueeze(1), *as_2d(window)).squeeze(1)


def window_max_with_indices(planes: torch.Tensor, window: Window) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the maximum of each window of each plane, and its flat position in the plane."""
    if len(window.kernel_size) == 1:
        values, indices = window_max_with_indices(planes.unsqueeze(1), as_2d(window))
        return values.squeeze(1), indices.squeeze(1)
    if planes.is_cpu:
        return _window_max(planes, window)
    return through_floats(planes, lambda floats: _window_max(floats, window))


def _window_max(planes: torch.Tensor, window: Window) -> tuple[torch.Tensor, torch.Tensor]:
    pool = F.max_pool2d if len(window.kernel_size) == 2 else F.max_pool3d
    values, indices = pool(planes.contiguous(), *window, return_indices=True)
    return values, indices


def _adaptive_max(planes: torch.Tensor, sizes: tuple[int | None, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    if len(sizes) == 1:
        values, indices = _adaptive_max(planes.unsqueeze(1), (None, *sizes))
        return values.squeeze(1), indices.squeeze(1)
    pool: Any = F.adaptive_max_pool2d if len(sizes) == 2 else F.adaptive_max_pool3d
    values, indices = pool(planes.contiguous(), sizes, return_indices=True)
    return values, indices


def through_floats(planes: torch.Tensor, maximum: _Maximum) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute `maximum` in a float dtype that its kernel supports; only the order counts, so the result is exact."""
    if planes.is_floating_point():
        return maximum(planes)
    lowest = torch.iinfo(planes.dtype).min
    if planes.dtype in _FLOAT_FOR:
        values, indices = maximum(planes.to(_FLOAT_FOR[planes.dtype]))
        return values.clamp_(min=lowest).to(planes.dtype), indices
    if max(int(planes.amax()), -int(planes.amin())) < INTEGERS_IN_FLOAT64:
        values, indices = maximum(planes.to(torch.float64))
        # A window of padding alone gives -inf, which becomes the smallest integer.
        return values.clamp_(min=float(lowest)).to(planes.dtype), indices
    sorted_values, ranks = torch.unique(planes, return_inverse=True)
    values, indices = maximum(ranks.to(torch.float64))
    # A window of padding alone gives -inf, lower than every rank, which becomes the smallest integer.
    by_rank = torch.cat((sorted_values.new_tensor([lowest]), sorted_values))
    return by_rank[(values + 1).clamp_(min=0).to(torch.int64)], indices


def _plane_extreme(planes: torch.Tensor, extreme: Callable[..., torch.Tensor]) -> torch.Tensor:
    ones = (1,) * (planes.ndim - 1)
    values = extreme(planes.flatten(1), 1)
    # A reduction takes the sign of any zero, not of the first.
    if not planes.is_floating_point() or bool(values.all()) or not _holds_negative_zero(planes):
        return values.view(-1, *ones)
    if extreme is torch.amax:
        return _adaptive_max(planes, ones)[0]
    return -_adaptive_max(-planes, ones)[0]


def _holds_negative_zero(planes: torch.Tensor) -> bool:
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[planes.element_size()]
    return int(planes.view(integer).amin()) == torch.iinfo(integer).min


def _reversed(values: torch.Tensor) -> torch.Tensor:
    """Map the values so that their order is reversed; the mapping is exact and its own inverse."""
    # -x has neither property for unsigned integers and for the smallest signed integer.
    return -values if values.is_floating_point() else values.bitwise_not()
