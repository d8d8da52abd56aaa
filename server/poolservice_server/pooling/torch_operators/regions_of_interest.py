"""Operators that pool the bins of boxes in a feature map.

A bin is a set of pixels with weights, the product of weights for its rows and for its columns. numpy computes these
from the boxes; torch adds up the pixels, which lie in a table with one row per pixel and one column per channel.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from poolservice.specs.regions_of_interest import ADAPTIVE
from poolservice_server.kernel_thresholds import BAG_MAX_ADDED, BOX_GATHERED, BOX_PIXELS, BOX_POINTS, BOX_VALUES
from poolservice_server.pooling.torch_operators.masked import lowest


class _Lines(NamedTuple):
    """The rows, or the columns, of each bin of each box.

    Attributes:
        places: (K, bins, most lines of a bin), -1 where there is none.
        weights: their weights, 0 where there is none.
    """

    places: np.ndarray
    weights: np.ndarray


#: Returns the lines of boxes, from their first and last coordinate, the number of bins and the size of the plane.
_LinesOf = Callable[[np.ndarray, np.ndarray, int, int], _Lines]


def roi_align(samples: torch.Tensor, spec: Any) -> torch.Tensor:
    """Mean of bilinear samples in each bin: (N, C, H, W) to (N, K, C, *output_size).

    Source:
        He, Gkioxari, Dollar and Girshick, "Mask R-CNN", 2017.
    """
    lines = _lines_of_points(spec.sampling_ratio, aligned=spec.aligned)
    return _pooled(samples, spec, lines, _weighted_sum)


def ps_roi_align(samples: torch.Tensor, spec: Any) -> torch.Tensor:
    """Mean of bilinear samples in each bin, from channels of its own: (N, C, H, W) to (N, K, C / bins, *output_size).

    Source:
        Li et al., "Light-Head R-CNN", 2017.
    """
    lines = _lines_of_points(spec.sampling_ratio, aligned=True)
    return _pooled(samples, spec, lines, _weighted_sum, own_channels=True)


def roi_pool(samples: torch.Tensor, spec: Any) -> torch.Tensor:
    """Maximum of each bin of whole pixels: (N, C, H, W) to (N, K, C, *output_size).

    Source:
        Girshick, "Fast R-CNN", 2015.
    """
    return _pooled(samples, spec, _lines_with_the_last, _maximum)


def ps_roi_pool(samples: torch.Tensor, spec: Any) -> torch.Tensor:
    """Mean of each bin of whole pixels, from channels of its own: (N, C, H, W) to (N, K, C / bins, *output_size).

    Source:
        Dai, Li, He and Sun, "R-FCN: Object Detection via Region-based Fully Convolutional Networks", 2016.
    """
    return _pooled(samples, spec, _lines_without_the_last, _weighted_sum, own_channels=True)


def _pooled(
    samples: torch.Tensor,
    spec: Any,
    lines_of: _LinesOf,
    combine: Callable[[torch.Tensor, np.ndarray, np.ndarray], torch.Tensor],
    *,
    own_channels: bool = False,
) -> torch.Tensor:
    """Pool the boxes of each sample.

    Args:
        samples: (N, C, H, W).
        spec: the spec.
        lines_of: returns the lines of boxes.
        combine: returns what bins give, from the table of pixels, the rows of the table for each bin, of which the
            last one stands for no pixel, and their weights.
        own_channels: True if each bin has channels of its own.
    """
    height, width = samples.shape[2:]
    bins = spec.bins
    groups = bins[0] * bins[1] if own_channels else 1
    boxes = spec.boxes.array.astype(np.float64) * spec.spatial_scale
    boxes = np.broadcast_to(boxes, (len(samples), *boxes.shape[-2:]))
    channels = samples.shape[1] // groups
    result = samples.new_empty((len(samples), spec.count, channels, *bins))
    fill = 0 if combine is _weighted_sum else lowest(samples.dtype)
    for number, sample in enumerate(samples):
        planes = sample.view(-1, groups, height * width).permute(1, 2, 0)
        # One more row in each group stands for no pixel.
        table = F.pad(planes, (0, 0, 0, 1), value=fill).reshape(groups * (height * width + 1), -1)
        for chosen in _alike(boxes[number], bins, (height, width), channels):
            x1, y1, x2, y2 = boxes[number, chosen].T
            rows = lines_of(y1, y2, bins[0], height)
            columns = lines_of(x1, x2, bins[1], width)
            values = samples.new_empty((len(chosen) * bins[0] * bins[1], channels))
            start = 0
            for pixels, weights in _bags(rows, columns, (height, width), groups):
                # Small results that were kept would keep the allocator from giving back the large arrays around them.
                values[start : start + len(pixels)] = combine(table, pixels, weights)
                start += len(pixels)
            values = values.view(len(chosen), *bins, channels).permute(0, 3, 1, 2).contiguous()
            result[number].index_copy_(0, torch.from_numpy(chosen).to(samples.device), values)
    return result


def _alike(boxes: np.ndarray, bins: tuple[int, int], spatial: tuple[int, int], channels: int) -> Iterator[np.ndarray]:
    """Yield the numbers of boxes of similar size, as many as are pooled at a time."""
    if not len(boxes):
        return
    x1, y1, x2, y2 = boxes.T
    sizes = np.abs(y2 - y1) * np.abs(x2 - x1)
    order = np.argsort(sizes, kind="stable")
    # A bin has at most as many points as fit into the plane, about two for each line.
    points = sum(
        count * np.minimum(np.abs(high - low) / count + 2, 2 * size + 4)
        for low, high, count, size in ((y1, y2, bins[0], spatial[0]), (x1, x2, bins[1], spatial[1]))
    )
    group = np.cumsum(points[order] / BOX_POINTS + bins[0] * bins[1] * channels / BOX_VALUES).astype(np.int64)
    yield from np.split(order, np.flatnonzero(np.diff(group)) + 1)


def _bags(
    rows: _Lines, columns: _Lines, spatial: tuple[int, int], groups: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the rows of the table, and their weights, of some bins at a time: (bins, pixels)."""
    height, width = spatial
    shape = (*rows.places.shape[:2], columns.places.shape[1])
    per_bin = rows.places.shape[2] * columns.places.shape[2]
    count = int(np.prod(shape))
    step = max(1, BOX_PIXELS // per_bin)
    for start in range(0, count, step):
        box, row_bin, column_bin = np.unravel_index(np.arange(start, min(start + step, count)), shape)
        row, column = rows.places[box, row_bin][:, :, None], columns.places[box, column_bin][:, None, :]
        pixels = np.where((row < 0) | (column < 0), height * width, row * width + column)
        if groups > 1:
            pixels += ((row_bin * shape[2] + column_bin) * (height * width + 1))[:, None, None]
        weights = rows.weights[box, row_bin][:, :, None] * columns.weights[box, column_bin][:, None, :]
        yield pixels.reshape(len(box), per_bin), weights.reshape(len(box), per_bin)


def _weighted_sum(table: torch.Tensor, pixels: np.ndarray, weights: np.ndarray) -> torch.Tensor:
    """Return the weighted sum of the pixels of each bin, (bins, C)."""
    sums = [
        F.embedding_bag(part, table, mode="sum", per_sample_weights=weights_of_part)
        for part, weights_of_part in zip(
            torch.from_numpy(pixels).to(table.device).split(BAG_MAX_ADDED, 1),
            torch.from_numpy(weights).to(table.device, table.dtype).split(BAG_MAX_ADDED, 1),
            strict=True,
        )
    ]
    return sums[0] if len(sums) == 1 else torch.stack(sums).sum(0)


def _maximum(table: torch.Tensor, pixels: np.ndarray, weights: np.ndarray) -> torch.Tensor:
    """Return the maximum of the pixels of each bin, (bins, C), or 0 if it has none."""
    step = max(1, BOX_GATHERED // (pixels.shape[1] * table.shape[1]))
    places = torch.from_numpy(pixels).to(table.device)
    result = table.new_empty((len(pixels), table.shape[1]))
    for part, found in zip(places.split(step), result.split(step), strict=True):
        torch.amax(table.index_select(0, part.flatten()).view(*part.shape, -1), 1, out=found)
    empty = torch.from_numpy(~weights.any(1)).to(table.device)[:, None]
    return result.masked_fill_(empty, 0)


def _lines_of_points(sampling_ratio: int, *, aligned: bool) -> _LinesOf:
    """Return a function from boxes to their lines, weighted by the bilinear interpolation at the points of a bin."""

    def lines(low: np.ndarray, high: np.ndarray, bins: int, size: int) -> _Lines:
        start = low - 0.5 if aligned else low
        extent = high - low if aligned else np.maximum(high - low, 1.0)
        grid = np.ceil(extent / bins) if sampling_ratio == ADAPTIVE else np.full(len(low), float(sampling_ratio))
        return _interpolated(start[:, None] + np.arange(bins) * (extent / bins)[:, None], extent / bins, grid, size)

    return lines


def _interpolated(start: np.ndarray, extent: np.ndarray, grid: np.ndarray, size: int) -> _Lines:
    """Return the lines of bins with points.

    Args:
        start: (K, bins), where each bin starts.
        extent: (K,), the extent of a bin.
        grid: (K,), the number of its points; none if it is below 1.
        size: the size of the plane.
    """
    grid = np.maximum(grid, 0.0)[:, None]
    step = extent[:, None] / np.maximum(grid, 1.0)
    # The points of a large box that are far outside of the plane are left out; they count as 0.
    growing = np.where(step > 0, step, np.inf)
    first = np.where(step > 0, np.clip(np.floor((-1 - start) / growing - 0.5), 0, grid), 0.0)
    last = np.where(step > 0, np.clip(np.ceil((size - start) / growing - 0.5), -1, grid - 1), grid - 1)
    most = max(1, int((last - first).max()) + 1)
    number = first[:, :, None] + np.arange(most)
    at = start[:, :, None] + (number + 0.5) * step[:, :, None]
    counts = (number <= last[:, :, None]) & (at >= -1) & (at <= size)
    at = np.clip(at, 0, size - 1)
    below = np.floor(at).astype(np.int64)
    above = np.minimum(below + 1, size - 1)
    begin = np.where(counts, below, size).min(2)
    length = max(1, int((np.where(counts, above, -1).max(2) - begin).max()) + 1)
    bags = np.arange(begin.size).reshape(*begin.shape, 1) * length - begin[:, :, None]
    share = np.broadcast_to(1.0 / np.maximum(grid, 1.0)[:, :, None], at.shape)[counts]
    fraction = (at - below)[counts]
    weights = np.bincount((bags + below)[counts], (1 - fraction) * share, begin.size * length)
    weights += np.bincount((bags + above)[counts], fraction * share, begin.size * length)
    weights = weights.reshape(*begin.shape, length)
    return _Lines(np.where(weights > 0, begin[:, :, None] + np.arange(length), -1), weights)


def _lines_with_the_last(low: np.ndarray, high: np.ndarray, bins: int, size: int) -> _Lines:
    """Return the whole lines of boxes, whose last line belongs to them."""
    start, end = _rounded(low), _rounded(high)
    return _whole(start, np.maximum(end - start + 1, 1), bins, size)


def _lines_without_the_last(low: np.ndarray, high: np.ndarray, bins: int, size: int) -> _Lines:
    """Return the whole lines of boxes, of which neither their last line nor that of the plane is one."""
    start, end = _rounded(low), _rounded(high)
    return _whole(start, np.maximum(end - start, 1), bins, size - 1)


def _rounded(coordinates: np.ndarray) -> np.ndarray:
    """Round half away from 0, as C does."""
    whole: np.ndarray = np.copysign(np.floor(np.abs(coordinates) + 0.5), coordinates).astype(np.int64)
    return whole


def _whole(start: np.ndarray, extent: np.ndarray, bins: int, limit: int) -> _Lines:
    """Return the lines of bins of boxes that start at a line and have so many, as far as they are below a limit."""
    number = np.arange(bins)
    begin = np.clip(start[:, None] + number * extent[:, None] // bins, 0, limit)
    end = np.clip(start[:, None] - (-(number + 1) * extent[:, None] // bins), 0, limit)
    places = begin[:, :, None] + np.arange(max(1, int((end - begin).max())))
    inside = places < end[:, :, None]
    weights = inside / np.maximum(end - begin, 1)[:, :, None]
    return _Lines(np.where(inside, places, -1), weights)
