"""Windows by shifted slices: what a window holds is combined from whole slices of the input, near memory's speed.

A window of small kernels is separable: first whole rows are combined with their neighbours, which halves the work
that is left where the stride is 2, then columns. torch's own kernels walk through each window value by value.

Maxima come out the same whatever the order. Sums are added in another order than torch's, the same one for every
plane. A sum that only passes through infinity on the way may end there where torch's does not.
"""

import math
from collections.abc import Callable

import torch

from poolservice.specs import Window
from poolservice_server import shapes
from poolservice_server.pooling import folds

# torch.maximum, torch.minimum or torch.add: takes two tensors and where to write.
Combine = Callable[..., torch.Tensor]

_LONGEST_KERNEL = 3
_HALF_OF = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_AS_INTEGER = {1: torch.int8, 2: torch.int16, 4: torch.int32}
_FEWEST_VALUES = 4096


def suit(planes: torch.Tensor, window: Window, values: int) -> bool:
    """Whether slices are faster than torch's kernel, by tests/bench/kernels.py, for `values` values.

    The kernel must be small and without gaps, and the input large enough to be worth a dozen calls. A caller whose
    result depends on the kernel's order of work must give the values of one plane, not of all, so that a plane's
    answer does not depend on its company.
    """
    return (
        planes.device.type == "cpu"
        and values >= _FEWEST_VALUES
        and 1 < max(window.kernel_size) <= _LONGEST_KERNEL
        and max(window.dilation) == 1
    )


def slide(planes: torch.Tensor, window: Window, combine: Combine) -> torch.Tensor:
    """Combine what each window holds; padding is left out, so nothing is added for it.

    Shape:
        (P, *spatial) to (P, *out), contiguous. Planes that lie interleaved, as the channels of a picture do, are
        combined where they lie and only the result is copied apart.
    """
    kernels, strides, paddings, _, _ = window
    counts = shapes.windows(window, tuple(planes.shape[1:]))
    interleaved = folds.interleaved(planes)
    values = planes.movedim(0, -1) if interleaved else planes.contiguous()
    last = len(kernels) - 1
    for i, (kernel, stride, padding, count) in enumerate(zip(kernels, strides, paddings, counts, strict=True)):
        dim = i if interleaved else i + 1
        if kernel == stride == 1:
            continue
        if i < last or stride == 1 or not (interleaved or (stride == 2 and values.element_size() <= 4)):
            values = _along(values, dim, (kernel, stride, padding), count, combine)
        else:
            # Neighbours in memory combine many at a time: all windows of stride 1, of which some are kept.
            dense = _along(values, dim, (kernel, 1, padding), stride * count, combine, kept=stride)
            values = dense[..., ::stride, :] if interleaved else _every_other(dense)
    return values.movedim(-1, 0).contiguous() if interleaved else values


def _along(
    values: torch.Tensor, dim: int, window: tuple[int, int, int], count: int, combine: Combine, kept: int = 1
) -> torch.Tensor:
    """Combine `count` windows of (kernel, stride, padding) along `dim`; only each `kept`-th needs to be right."""
    kernel, stride, padding = window
    size = values.shape[dim]
    shape = list(values.shape)
    shape[dim] = count
    out = values.new_empty(shape)
    first = min(-(-padding // stride), count)
    end = max(min((size - kernel + padding) // stride + 1, count), first)
    if stride == 1 and count == size:
        # One run over the whole memory; where it passes from one row to the next is a border, written below.
        step = math.prod(values.shape[dim + 1 :])
        run = values.numel() - (kernel - 1) * step
        flat = values.view(-1)
        _combine([flat.narrow(0, k * step, run) for k in range(kernel)], out.view(-1)[padding * step :][:run], combine)
    elif end > first:
        inside = [_slice(values, dim, stride * first - padding + k, end - first, stride) for k in range(kernel)]
        _combine(inside, out.narrow(dim, first, end - first), combine)
    for i in (*range(0, first, kept), *range(-(-end // kept) * kept, count, kept)):
        start = stride * i - padding
        held = range(max(start, 0), min(start + kernel, size))
        _combine([values.narrow(dim, at, 1) for at in held], out.narrow(dim, i, 1), combine)
    return out


def _slice(values: torch.Tensor, dim: int, start: int, count: int, step: int) -> torch.Tensor:
    index: list[slice] = [slice(None)] * dim
    return values[(*index, slice(start, start + step * (count - 1) + 1, step))]


def _combine(parts: list[torch.Tensor], out: torch.Tensor, combine: Combine) -> None:
    if len(parts) == 1:
        out.copy_(parts[0])
        return
    combine(parts[0], parts[1], out=out)
    for part in parts[2:]:
        combine(out, part, out=out)


def _every_other(values: torch.Tensor) -> torch.Tensor:
    # Of each pair, read as one little-endian integer, the narrowing cast keeps the first: a vector instruction,
    # where a strided copy goes one by one.
    size = values.element_size()
    return values.view(_HALF_OF[2 * size]).to(_AS_INTEGER[size]).view(values.dtype)


def hold_negative_zero(values: torch.Tensor) -> bool:
    """Whether some value is -0.0, for which maxima by slices would not take the first zero's sign as torch does."""
    if not values.is_floating_point() or math.prod(values.shape) == 0:
        return False
    integer = _HALF_OF[values.element_size()]
    return int(values.view(integer).amin()) == torch.iinfo(integer).min
