"""The costs of the operators with boxes, masks and indices, without torch; see `cost.Cost`."""

import math
from typing import Any

import numpy as np

from poolservice_server.kernel_thresholds import BOX_GATHERED, BOX_PIXELS, BOX_POINTS, BOX_VALUES
from poolservice_server.operator_costs.cost import Sample, per_visit

# For a pixel of a bin: finding it, and adding it or comparing it in each channel. For a point of a box, and a box. For
# a value of the sample, which is copied, and one of the result. For a call into torch.
_PIXEL, _ADDED, _COMPARED, _POINT, _BOX, _COPIED, _RESULT, _CALL = 25.0, 0.12, 1.2, 120.0, 4000.0, 1.0, 4.0, 5000.0
# The conversion of a mask, for each position.
_MASK = 6.0

# The floats for each of the pixels, and of the points, that are pooled at a time; see `regions_of_interest`.
_PIXEL_FLOATS, _POINT_FLOATS = 12.0, 20.0


def box_bins(spec: Any, sample: Sample) -> tuple[float, float]:
    """Return the cost of the bins of boxes."""
    boxes = spec.boxes.array.reshape(-1, 4).astype(np.float64)
    height, width = sample.spatial
    bins = spec.bins
    is_maximum = spec.operator == "roi_pool"
    ratio = getattr(spec, "sampling_ratio", 0)
    pixels, points = np.ones(len(boxes)), np.zeros(len(boxes))
    for axis, (count, size) in enumerate(zip(bins, (height, width), strict=True)):
        extent = np.abs(boxes[:, 3 - axis] - boxes[:, 1 - axis]) * spec.spatial_scale / count
        lines = np.minimum(extent + 2, size)
        if ratio > 0:
            lines = np.minimum(lines, 2 * ratio)
        pixels *= count * lines
        points += count * (ratio if ratio > 0 else np.minimum(extent + 1, 2 * size + 4))
    channels = sample.results / max(spec.count * bins[0] * bins[1], 1)
    total = float(pixels.sum())
    per_pixel = _PIXEL + (_COMPARED if is_maximum else _ADDED) * channels
    steps = per_pixel * total + _POINT * float(points.sum()) + _BOX * spec.count + _COPIED * sample.values
    steps += _RESULT * sample.results
    floats = sample.values + 2.0 * min(sample.results, BOX_VALUES) + _PIXEL_FLOATS * min(total, BOX_PIXELS)
    floats += _POINT_FLOATS * max(float(points.max(initial=0)), min(float(points.sum()), BOX_POINTS))
    if is_maximum:
        floats += min(total * channels, BOX_GATHERED)
    return steps, floats


def average_unpooling(spec: Any, sample: Sample) -> tuple[float, float]:
    """Return the cost of spreading values along one dimension after the other."""
    steps = 0.0
    spread = sample.values
    dimensions = zip(spec.window[0], sample.spatial, spec.spatial_shape(sample.spatial), strict=True)
    for kernel, size, out in reversed(list(dimensions)):
        # The values of the windows, in as many calls as are fewer: positions of a window, or windows.
        steps += 0.5 * spread * kernel + _CALL * min(kernel, size)
        spread = spread // size * out
    return steps, float(sample.values + sample.results)


def masked_mean(spec: Any, sample: Sample) -> tuple[float, float]:
    """Return the cost of the mean of masked windows, or of whole planes."""
    window, positions = spec.window_in(sample.spatial), math.prod(sample.spatial)
    if spec.kernel_size is None:
        # The mask becomes float64, then float32. The values are copied if they are not aligned.
        return 0.5 * sample.values + _MASK * positions, max(3 * positions, positions + sample.values)
    # Sums along one dimension after the other: the product with the mask, its padding, and the sums along the first.
    steps = 1.5 * sample.values + 0.5 * sum(window.kernel_size) * sample.results + _MASK * positions
    copies = 1 + any(window.padding) + 1 / window.stride[0]
    return steps, copies * sample.values + positions + sample.results


def masked_maximum(spec: Any, sample: Sample) -> tuple[float, float]:
    """Return the cost of the maximum of masked windows, or of whole planes."""
    steps, floats = per_visit(2 if spec.kernel_size is None else 3, 1.2)(spec, sample)
    return steps + _MASK * math.prod(sample.spatial), floats


def masked_power_mean(spec: Any, sample: Sample) -> tuple[float, float]:
    """Return the cost of the generalized mean of masked windows, or of whole planes."""
    # The estimate is between the formula for values whose powers stay in range and the one for others.
    steps, floats = per_visit(1.6 if spec.kernel_size is None else 3.5, 1.7)(spec, sample)
    positions = math.prod(sample.spatial)
    return steps + _MASK * positions, floats + 2.5 * positions
