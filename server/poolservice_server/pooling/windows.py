"""Where windows lie: what each covers, and how many values it holds."""

from collections.abc import Sequence
from functools import lru_cache

import torch

from poolservice.specs import Window, WindowSpec
from poolservice_server import shapes


@lru_cache(maxsize=1024)
def window_of(spec: WindowSpec) -> Window:
    """The spec's window; to look it up costs less than to gather it."""
    return spec.window


@lru_cache(maxsize=1024)
def as_width(window: Window) -> Window:
    """A window of one dimension as one of two, over planes one high."""
    kernel_size, stride, padding, dilation, ceil_mode = window
    return Window((1, *kernel_size), (1, *stride), (0, *padding), (1, *dilation), ceil_mode)


def see_input(window: Window) -> bool:
    """Whether every window is sure to hold a value of the input.

    Padding is at most half the kernel, so a window without gaps always does; one with gaps can see padding alone.
    """
    return all(padding == 0 or dilation == 1 for padding, dilation in zip(window.padding, window.dilation, strict=True))


@lru_cache(maxsize=256)
def window_counts(window: Window, spatial: tuple[int, ...], count_include_pad: bool) -> torch.Tensor:
    """How many values the mean of each window divides by, as float64 of the result's spatial shape."""
    counts = []
    for dimension, (size, out) in enumerate(zip(spatial, shapes.windows(window, spatial), strict=True)):
        kernel, stride, padding = (values[dimension] for values in window[:3])
        starts = [stride * i - padding for i in range(out)]
        ends = [min(start + kernel, size + padding) for start in starts]
        if not count_include_pad:
            starts, ends = [max(start, 0) for start in starts], [min(end, size) for end in ends]
        counts.append([end - start for start, end in zip(starts, ends, strict=True)])
    return _product(counts)


@lru_cache(maxsize=256)
def adaptive_counts(spatial: tuple[int, ...], sizes: tuple[int, ...]) -> torch.Tensor:
    """How many values each of the windows holds that tile a plane, as float64 of the result's spatial shape."""
    return _product(
        [
            [-(-(i + 1) * size // out) - i * size // out for i in range(out)]
            for size, out in zip(spatial, sizes, strict=True)
        ]
    )


def _product(counts: Sequence[Sequence[int]]) -> torch.Tensor:
    product = torch.ones((), dtype=torch.float64)
    for one in counts:
        product = product.unsqueeze(-1) * torch.tensor(one, dtype=torch.float64)
    return product
