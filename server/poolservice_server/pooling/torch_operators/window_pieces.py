"""The windows of planes in pieces, for functions that need all values of a window at once."""

import math
from collections.abc import Callable, Iterator
from itertools import accumulate, product

import torch

from poolservice.specs import WindowSpec
from poolservice_server.kernel_thresholds import GPU_PIECE_VALUES, PIECE_VALUES
from poolservice_server.operator_shapes import window_grid

#: Takes the values of windows (p, *o, *kernel) with any strides and, for each of them, further items (p, *o, ...).
#: Returns something for each window, (p, *o).
PieceFunction = Callable[..., torch.Tensor]


class WindowPieces:
    """The windows of a spec over planes (P, *spatial) of any dtype, a piece of them at a time.

    Windows without dilation hold at least one value of the plane.

    Attributes:
        size: the number of places in a window.
        out: the number of windows along each dimension.
        counts: the number of values in each window, int64 (1, *out); None if all windows are full.
        distinct_counts: the different numbers of values in the windows.
    """

    def __init__(self, planes: torch.Tensor, spec: WindowSpec, fill: float) -> None:
        """Take the windows of `spec`; places outside of the plane have the value `fill`."""
        spatial = tuple(planes.shape[1:])
        self._window = spec.window_in(spatial)
        self.size = math.prod(self._window.kernel_size)
        self.out = window_grid(self._window, spatial)
        self.counts: torch.Tensor | None = None
        self.distinct_counts = {self.size}
        axes = list(zip(*self._window[:3], spatial, self.out, strict=True))
        if any(padding or (out - 1) * stride + kernel > size for kernel, stride, padding, size, out in axes):
            along_axes = [_counts(*axis) for axis in axes]
            different = (axis.unique().tolist() for axis in along_axes)
            self.distinct_counts = {math.prod(numbers) for numbers in product(*different)}
            counts = along_axes[-1]
            for axis in reversed(along_axes[:-1]):
                counts = axis.view(-1, *(1,) * counts.ndim) * counts
            self.counts = counts.unsqueeze(0).to(planes.device)
            planes = _padded(planes, self._window[:3], self.out, fill)
        self._planes = planes

    def map(self, function: PieceFunction, *items: torch.Tensor) -> torch.Tensor:
        """Return what `function` returns for each window, (P, *out).

        Args:
            function: see `PieceFunction`.
            items: values for each window, (P or 1, *out, ...).
        """
        view = self._view()
        sizes = view.shape[: 1 + len(self.out)]
        given = [item.expand(*sizes, *item.shape[len(sizes) :]) for item in items]
        parts = list(_parts(sizes, self.size, PIECE_VALUES if view.is_cpu else GPU_PIECE_VALUES))
        first = function(view[parts[0]], *(item[parts[0]] for item in given))
        if len(parts) == 1:
            return first
        result = first.new_empty(sizes)
        result[parts[0]] = first
        for part in parts[1:]:
            result[part] = function(view[part], *(item[part] for item in given))
        return result

    def _view(self) -> torch.Tensor:
        """Return the values of all windows, (P, *out, *kernel), without copying them."""
        kernel_size, strides, _, _, _ = self._window
        steps = self._planes.stride()
        between = (step * stride for step, stride in zip(steps[1:], strides, strict=True))
        shape = (len(self._planes), *self.out, *kernel_size)
        return self._planes.as_strided(shape, (steps[0], *between, *steps[1:]))


def places(view: torch.Tensor) -> list[torch.Tensor]:
    """Return for each place in a window the values of all windows (p, *o, *kernel) there."""
    first = (view.ndim + 1) // 2
    by_place = view.permute(*range(first, view.ndim), *range(first))
    if view.stride(first - 1) != 1:
        # Values that do not lie side by side are copied once, because each of them is read several times.
        by_place = by_place.contiguous()
    values = [by_place]
    for _ in range(first, view.ndim):
        values = [place for value in values for place in value.unbind(0)]
    return values


def gathered(view: torch.Tensor) -> torch.Tensor:
    """Return the values of windows (p, *o, *kernel) as (p, *o, K)."""
    return view.flatten((view.ndim + 1) // 2)


def _counts(kernel: int, stride: int, padding: int, size: int, out: int) -> torch.Tensor:
    """Return the number of values in each of the windows along a dimension."""
    starts = torch.arange(out) * stride - padding
    return (starts + kernel).clamp(max=size) - starts.clamp(min=0)


def _padded(
    planes: torch.Tensor, window: tuple[tuple[int, ...], ...], out: tuple[int, ...], fill: float
) -> torch.Tensor:
    sizes, inside = [len(planes)], [slice(None)]
    for kernel, stride, padding, size, count in zip(*window, planes.shape[1:], out, strict=True):
        sizes.append(max(size + padding, (count - 1) * stride + kernel))
        inside.append(slice(padding, padding + size))
    # F.pad would round the fill of int64 to a float64.
    padded = planes.new_full(sizes, fill)
    padded[tuple(inside)] = planes
    return padded


def _parts(sizes: tuple[int, ...], window_size: int, limit: int) -> Iterator[tuple[slice, ...]]:
    """Yield slices of windows that together hold at most `limit` values, or else single windows."""
    # The number of values at each index of each dimension.
    below = list(accumulate(reversed((*sizes[1:], window_size)), lambda left, right: left * right))[::-1]
    axis = next((axis for axis, values in enumerate(below) if values <= limit), len(sizes) - 1)
    step = max(1, limit // below[axis])
    for outer in product(*map(range, sizes[:axis])):
        for start in range(0, sizes[axis], step):
            yield (*(slice(index, index + 1) for index in outer), slice(start, start + step))
