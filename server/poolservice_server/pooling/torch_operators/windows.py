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
        self._is_plane = self._window.kernel_size == self._spatial and math.prod(self._out) == 1
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

    def max(self) -> torch.Tensor:
        """Return the maximum of each window; NaN if it holds one."""
        if self._is_plane:
            return self._planes.flatten(1).amax(1).view(-1, *self._out)
        if not self._planes.is_cpu or sum(self._window.kernel_size) > _MAX_VISITS:
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
        if self._size > _MAX_VISITS and self._size * math.prod(self._out) <= _MAX_GATHERED * math.prod(self._spatial):
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
            total = total.add_(computed) if number else computed
        return total

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


def _every(planes: torch.Tensor, dim: int, start: int, stride: int, count: int) -> torch.Tensor:
    """Return so many places along a dimension, from a start on."""
    return planes[(*(slice(None),) * dim, slice(start, start + (count - 1) * stride + 1, stride))]
