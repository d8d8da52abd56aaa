"""The windows of planes, with sums over them of any function of their values."""

import math
from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import product

import torch
import torch.nn.functional as F

from poolservice.specs import WindowSpec
from poolservice_server.kernel_thresholds import WINDOW_MAX_GATHERED, WINDOW_MAX_VISITS
from poolservice_server.operator_shapes import window_grid
from poolservice_server.pooling.torch_operators.extremes import window_max

#: Computes something of values of windows and, broadcast to their shape, of further values for each window.
Elementwise = Callable[..., torch.Tensor]


class Windows:
    """The windows of a spec over planes (P, *spatial) of float32 or float64.

    Positions in the padding, or beyond it with ceil_mode, belong to no window: they are in no sum, and no maximum is
    theirs. Values that have one item for each window have the shape (P, *out).
    """

    def __init__(self, planes: torch.Tensor, spec: WindowSpec) -> None:
        self._planes = planes
        self._spatial = tuple(planes.shape[1:])
        self._window = spec.window_in(self._spatial)
        self._out = window_grid(self._window, self._spatial)
        self._is_plane = (
            self._window.kernel_size == self._spatial and math.prod(self._out) == 1 and not any(self._window.padding)
        )
        self._size = math.prod(self._window.kernel_size)

    @cached_property
    def count(self) -> torch.Tensor:
        """The number of values in each window, (1, *out)."""
        ones = torch.ones((1, *self._spatial), dtype=self._planes.dtype, device=self._planes.device)
        return self.total(ones)

    @property
    def dims(self) -> int:
        """The number of spatial dimensions."""
        return len(self._spatial)

    @property
    def size(self) -> int:
        """The number of positions in a window, those in the padding included."""
        return self._size

    def max(self) -> torch.Tensor:
        """Return the maximum of each window; NaN if it holds one."""
        if self._is_plane:
            return self._planes.flatten(1).amax(1).view(-1, *self._out)
        if not self._planes.is_cpu or sum(self._window.kernel_size) > WINDOW_MAX_VISITS:
            return window_max(self._planes, self._window)
        # Dimension by dimension, which takes torch's kernel for CPUs several times as long.
        maxima = self._planes
        lowest = -math.inf if maxima.is_floating_point() else torch.iinfo(maxima.dtype).min
        for dimension in range(self.dims):
            first, *others = self.parts(maxima, dimension, lowest)
            maxima = torch.maximum(first, others[0]) if others else first
            for other in others[1:]:
                torch.maximum(maxima, other, out=maxima)
        return maxima

    def min(self) -> torch.Tensor:
        """Return the minimum of each window; NaN if it holds one."""
        return -Windows.max(self._negated())

    def mean(self, function: Elementwise, *per_window: torch.Tensor) -> torch.Tensor:
        """Return the mean over each window of a function of its values; see `sum`."""
        return self.sum(function, *per_window) / self.divisor

    def sum(self, function: Elementwise, *per_window: torch.Tensor) -> torch.Tensor:
        """Return the sum over each window of a function of its values. See `total` if it needs nothing of the window.

        Args:
            function: takes values and, for each of `per_window`, the items of their windows; it computes new values
                elementwise.
            per_window: values that have one item for each window.
        """
        if self._is_plane:
            items = (values.reshape(-1, 1) for values in per_window)
            return function(self._planes.flatten(1), *items).sum(1).view(-1, *self._out)
        padded = self._padded(self._planes, 0.0)
        if self._is_gathered:
            items = (values.unsqueeze(-1) for values in per_window)
            computed = function(self._gathered(padded), *items)
            return self._inside(computed, self._gathered).sum(-1)
        visits = self._visits(padded)
        inside = None if self._all_full else self._visits(self._mask)
        total = torch.zeros((), dtype=self._planes.dtype, device=self._planes.device)
        for number, values in enumerate(visits):
            computed = function(values, *per_window)
            if inside is not None:
                computed = torch.where(next(inside), computed, 0.0)
            # The first may be a view of the planes, to which nothing may be added in place.
            total = total.add_(computed) if number > 1 else total + computed if number else computed
        return total

    def weighted_sums(self, weigh: Elementwise, per_window: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the sum over each window of value * weight, and that of the weights.

        Args:
            weigh: takes values and the items of their windows, and computes their weights elementwise: 1 for a 0.
            per_window: one item for each window.
        """
        if self._is_plane:
            values = self._planes.flatten(1)
            weights = weigh(values, per_window.reshape(-1, 1))
            return (values * weights).sum(1).view(-1, *self._out), weights.sum(1).view(-1, *self._out)
        padded = self._padded(self._planes, 0.0)
        if self._is_gathered:
            values = self._gathered(padded)
            weights = weigh(values, per_window.unsqueeze(-1))
            sums, total = (values * weights).sum(-1), weights.sum(-1)
        else:
            visits = self._visits(padded)
            first = next(visits)
            total = weigh(first, per_window)
            sums = first * total
            for values in visits:
                weights = weigh(values, per_window)
                total.add_(weights)
                sums.addcmul_(values, weights)
        # Each position in the padding has the weight 1.
        return sums, total if self._all_full else total.sub_(self._size - self.count)

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum over each window of values (P, *spatial), one dimension after the other, as a new tensor."""
        if self._is_plane:
            return values.flatten(1).sum(1).view(-1, *self._out)
        for dimension in range(len(self._spatial)):
            values = added(self.parts(values, dimension, 0.0))
        return values.clone() if self._size == 1 else values

    def parts(self, values: torch.Tensor, dimension: int, fill: float) -> list[torch.Tensor]:
        """Return for each position of a window along a dimension the values there, with `fill` outside of the plane.

        The dimensions before this one must have been pooled already, so that the values are (P, *out, *spatial).
        """
        kernel_size, strides, paddings, dilations, _ = self._window
        padding, stride, out = paddings[dimension], strides[dimension], self._out[dimension]
        beyond = (out - 1) * stride + self._extents[dimension] - padding - self._spatial[dimension]
        if padding or beyond > 0:
            behind = [0] * 2 * (len(self._spatial) - dimension - 1)
            values = F.pad(values, [*behind, padding, max(0, beyond)], value=fill)
        starts = range(0, dilations[dimension] * kernel_size[dimension], dilations[dimension])
        span = (out - 1) * stride + 1
        axis = dimension + 1
        return [
            values.narrow(axis, start, span)[(slice(None),) * axis + (slice(None, None, stride),)] for start in starts
        ]

    @property
    def _is_gathered(self) -> bool:
        """Whether sums gather the values of all windows, instead of visiting position by position."""
        many = self._size > WINDOW_MAX_VISITS
        return many and self._size * math.prod(self._out) <= WINDOW_MAX_GATHERED * math.prod(self._spatial)

    @property
    def is_plane(self) -> bool:
        """Whether there is one window, which covers the plane."""
        return self._is_plane

    @property
    def scale(self) -> float:
        """A power of 2. Sums over a window of values divided by it do not overflow, and no digit is lost."""
        return 2.0 ** math.ceil(math.log2(self._size))

    @property
    def divisor(self) -> torch.Tensor | int:
        """The number of values in each window: one number if all windows lie in the plane, else (1, *out)."""
        return self._size if self._all_full else self.count

    def convolved(self, weights: torch.Tensor) -> torch.Tensor:
        """Return the sum over each window of its values times their weights, (P, K); K is the positions in a window.

        Positions outside of the plane have the value 0.
        """
        filters = weights.reshape(len(weights), 1, *self._window.kernel_size)
        padded = self._padded(self._planes, 0.0).unsqueeze(0)
        convolve: Callable[..., torch.Tensor] = (F.conv1d, F.conv2d, F.conv3d)[len(self._out) - 1]
        _, strides, _, dilations, _ = self._window
        return convolve(padded, filters, None, strides, 0, dilations, len(weights)).squeeze(0)

    def values(self, fill: float) -> torch.Tensor:
        """Return the values of each window, (P, *out, K), with `fill` in the places that belong to no window."""
        if self._is_plane:
            return self._planes.flatten(1).view(-1, *self._out, self._size)
        return self._gathered(self._padded(self._planes, fill))

    def positions(self) -> torch.Tensor:
        """Return the flat position in the plane of each value of `values`, (1, *out, K); -1 outside of the plane."""
        count = math.prod(self._spatial)
        grid = torch.arange(1, count + 1, device=self._planes.device, dtype=torch.float64).view(1, *self._spatial)
        if self._is_plane:
            return grid.view(1, *self._out, count).long() - 1
        return self._gathered(self._padded(grid, 0.0)).long() - 1

    def _negated(self) -> "Windows":
        negated = object.__new__(Windows)
        negated.__dict__.update(self.__dict__, _planes=-self._planes)
        return negated

    @cached_property
    def _all_full(self) -> bool:
        """Whether all windows lie in the plane."""
        _, strides, paddings, _, _ = self._window
        return not any(paddings) and all(
            (out - 1) * stride + extent <= size
            for out, stride, extent, size in zip(self._out, strides, self._extents, self._spatial, strict=True)
        )

    @property
    def _extents(self) -> list[int]:
        return [
            dilation * (kernel - 1) + 1
            for kernel, dilation in zip(self._window.kernel_size, self._window.dilation, strict=True)
        ]

    @cached_property
    def _mask(self) -> torch.Tensor:
        """True inside the plane, padded, (1, *padded)."""
        ones = torch.ones((1, *self._spatial), dtype=torch.float32, device=self._planes.device)
        return self._padded(ones, 0.0) > 0

    def _padded(self, planes: torch.Tensor, fill: float) -> torch.Tensor:
        if self._all_full:
            return planes
        _, strides, paddings, _, _ = self._window
        sides: list[int] = []
        for out, stride, padding, extent, size in zip(
            self._out, strides, paddings, self._extents, self._spatial, strict=True
        ):
            # Negative padding would cut off what the windows do not reach.
            sides = [padding, max(0, (out - 1) * stride + extent - padding - size), *sides]
        return F.pad(planes, sides, value=fill)

    def _visits(self, padded: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield for each position in the window the values of all windows there, (P, *out)."""
        kernel_size, strides, _, dilations, _ = self._window
        for position in product(*map(range, kernel_size)):
            slices = tuple(
                slice(place * dilation, place * dilation + (out - 1) * stride + 1, stride)
                for place, dilation, out, stride in zip(position, dilations, self._out, strides, strict=True)
            )
            yield padded[(slice(None), *slices)]

    def _gathered(self, padded: torch.Tensor) -> torch.Tensor:
        """Return the values of each window, (P, *out, K)."""
        kernel_size, strides, _, dilations, _ = self._window
        steps = padded.stride()[1:]
        view = padded.as_strided(
            (len(padded), *self._out, *kernel_size),
            (
                padded.stride(0),
                *(step * stride for step, stride in zip(steps, strides, strict=True)),
                *(step * dilation for step, dilation in zip(steps, dilations, strict=True)),
            ),
        )
        return view.reshape(len(padded), *self._out, self._size)

    def _inside(self, computed: torch.Tensor, view: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        return computed if self._all_full else torch.where(view(self._mask), computed, 0.0)


def added(parts: list[torch.Tensor]) -> torch.Tensor:
    """Return the sum of tensors of one shape."""
    if len(parts) == 1:
        return parts[0]
    total = parts[0] + parts[1]
    for part in parts[2:]:
        total.add_(part)
    return total
