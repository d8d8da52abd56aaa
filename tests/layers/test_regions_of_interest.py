"""The layers that pool boxes, compared with their formulas in float64."""

import math
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
from tests.layers.test_every_layer import pooled

from poolservice.errors import InvalidRequest
from poolservice.specs import (
    PoolSpec,
    PSRoIAlign2d,
    PSRoIPool2d,
    RoIAlign2d,
    RoIPool2d,
)
from poolservice_server.operator_shapes import output_shape

BOX_LAYERS = (RoIAlign2d, RoIPool2d, PSRoIAlign2d, PSRoIPool2d)
BOX = [[0.0, 0.0, 4.0, 4.0]]


def interpolated(plane: Any, y: float, x: float) -> float:
    height, width = plane.shape
    if y < -1 or y > height or x < -1 or x > width:
        return 0.0
    y, x = max(y, 0.0), max(x, 0.0)
    top, left = min(int(y), height - 1), min(int(x), width - 1)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down = 0.0 if top == height - 1 else y - top
    over = 0.0 if left == width - 1 else x - left
    above = plane[top, left] * (1 - over) + plane[top, right] * over
    below = plane[bottom, left] * (1 - over) + plane[bottom, right] * over
    return float(above * (1 - down) + below * down)


def aligned_bin(plane: Any, box: Any, bins: Any, number: Any, ratio: int, *, aligned: bool) -> float:
    """Return a bin of torchvision's roi_align."""
    x1, y1, x2, y2 = box - 0.5 * aligned
    height, width = (y2 - y1, x2 - x1) if aligned else (max(y2 - y1, 1.0), max(x2 - x1, 1.0))
    sizes = (height / bins[0], width / bins[1])
    grids = [ratio if ratio > 0 else math.ceil(size) for size in sizes]
    total = 0.0
    for iy, ix in product(range(grids[0]), range(grids[1])):
        y = y1 + number[0] * sizes[0] + (iy + 0.5) * sizes[0] / grids[0]
        x = x1 + number[1] * sizes[1] + (ix + 0.5) * sizes[1] / grids[1]
        total += interpolated(plane, y, x)
    return total / max(grids[0] * grids[1], 1)


def whole_bin(plane: Any, box: Any, bins: Any, number: Any, *, last: bool) -> Any:
    """Return the pixels of a bin of torchvision's roi_pool, or of its ps_roi_pool without the last line."""
    x1, y1, x2, y2 = (math.floor(abs(one) + 0.5) * (1 if one > 0 else -1) for one in box)
    slices = []
    for begin, end, count, index, size in ((y1, y2, bins[0], number[0], 0), (x1, x2, bins[1], number[1], 1)):
        extent = max(end - begin + last, 1)
        limit = plane.shape[size] - (not last)
        low = begin + index * extent // count
        high = begin - (-(index + 1) * extent // count)
        slices.append(slice(min(max(low, 0), limit), min(max(high, 0), limit)))
    return plane[tuple(slices)]


def boxes_reference(spec: Any, sample: Any) -> Any:
    result = np.zeros(output_shape(spec, sample.shape))
    boxes = spec.boxes.array.astype(np.float64) * spec.spatial_scale
    for place in np.ndindex(result.shape):
        box, channel, *number = place
        if spec.operator.startswith("ps"):
            channel = (channel * spec.bins[0] + number[0]) * spec.bins[1] + number[1]
        plane = sample[channel].astype(np.float64)
        if spec.operator.endswith("align"):
            aligned = getattr(spec, "aligned", True)
            result[place] = aligned_bin(plane, boxes[box], spec.bins, number, spec.sampling_ratio, aligned=aligned)
        else:
            pixels = whole_bin(plane, boxes[box], spec.bins, number, last=spec.operator == "roi_pool")
            if pixels.size:
                result[place] = pixels.max() if spec.operator == "roi_pool" else pixels.mean()
    return result


def box_specs() -> Iterator[tuple[PoolSpec, tuple[int, ...]]]:
    generator = np.random.default_rng(7)
    for number in range(40):
        layer = BOX_LAYERS[number % 4]
        bins = tuple(int(one) for one in generator.integers(1, 4, 2))
        shape: tuple[int, ...] = (int(generator.integers(1, 3)) * (math.prod(bins) if "PS" in layer.__name__ else 1),)
        shape += tuple(int(one) for one in generator.integers(1, 15, 2))
        boxes = generator.uniform(-4, 24, (5, 4))
        if number % 3:
            boxes[:, 2:] = boxes[:, :2] + np.abs(boxes[:, 2:])
        named: dict[str, Any] = {"spatial_scale": float(generator.choice([1.0, 0.5, 0.3, 3.0]))}
        if "Align" in layer.__name__:
            named["sampling_ratio"] = int(generator.choice([-1, 0, 1, 2, 3]))
        if layer is RoIAlign2d:
            named["aligned"] = bool(number % 8)
        yield layer(boxes, bins, **named), shape


@pytest.mark.parametrize(("spec", "shape"), list(box_specs()))
def test_bins_of_boxes_follow_torchvision(spec: Any, shape: tuple[int, ...]) -> None:
    sample = np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)
    exact = spec.operator == "roi_pool"
    np.testing.assert_allclose(
        pooled(spec, sample[None])[0], boxes_reference(spec, sample), 0 if exact else 1e-5, 0 if exact else 1e-5
    )


def test_the_bins_of_large_boxes_have_all_their_points() -> None:
    sample = np.random.default_rng(1).standard_normal((2, 6, 5)).astype(np.float32)
    boxes = [[-300.0, -200.0, 500.0, 404.0], [0.0, 1.0, 800.0, 3.0], [-1e7, -1e7, 1e7, 1e7]]
    spec = RoIAlign2d(boxes[:2], (3, 2))
    np.testing.assert_allclose(pooled(spec, sample[None])[0], boxes_reference(spec, sample), 1e-5, 1e-6)
    assert np.isfinite(pooled(RoIAlign2d(boxes, 7, aligned=True), sample[None])).all()


def test_many_boxes_of_many_sizes_equal_each_of_them() -> None:
    generator = np.random.default_rng(3)
    sample = generator.standard_normal((1, 4, 40, 50)).astype(np.float32)
    boxes = generator.uniform(-5, 30, (600, 4))
    boxes[:, 2:] = boxes[:, :2] + generator.gamma(1.0, 20.0, (600, 2))
    for layer in BOX_LAYERS:
        together = pooled(layer(boxes, (2, 2)), sample)[0]
        for number in range(0, 600, 197):
            alone = pooled(layer(boxes[number : number + 1], (2, 2)), sample)[0, 0]
            np.testing.assert_allclose(together[number], alone, 1e-5, 1e-6)


def test_roi_align_interpolates_between_pixel_centers() -> None:
    # A plane that rises by 1 per column: without a border, a bin's mean is the column of its center.
    plane = np.broadcast_to(np.arange(8.0, dtype=np.float32), (1, 1, 8, 8))
    box = [[1.0, 1.0, 5.0, 5.0]]
    assert pooled(RoIAlign2d(box, 2), plane)[0, 0, 0].tolist() == [[2.0, 4.0]] * 2
    assert pooled(RoIAlign2d(box, 2, aligned=True), plane)[0, 0, 0].tolist() == [[1.5, 3.5]] * 2


def test_a_point_of_roi_align_counts_up_to_one_line_beyond_the_last() -> None:
    plane = np.ones((1, 1, 8, 8), np.float32)
    for start, expected in ((7.0, 1.0), (7.5, 0.0)):
        spec = RoIAlign2d([[0.0, start, 4.0, start + 2.0]], 1, sampling_ratio=1)
        assert pooled(spec, plane).item() == expected


@pytest.mark.parametrize("layer", [RoIPool2d, PSRoIPool2d])
def test_coordinates_of_boxes_are_rounded_half_away_from_0(layer: Any) -> None:
    sample = np.random.default_rng(2).standard_normal((1, 4, 9, 9)).astype(np.float32)
    for half, whole, other in (
        ([2.5, 2.5, 4.5, 4.5], [3, 3, 5, 5], [2, 2, 4, 4]),
        ([-2.5, -2.5, 4, 4], [-3, -3, 4, 4], [-2, -2, 4, 4]),
    ):
        got = pooled(layer([half], 2), sample)
        np.testing.assert_array_equal(got, pooled(layer([whole], 2), sample))
        assert (got != pooled(layer([other], 2), sample)).any()


def test_nan_matters_only_where_it_has_weight() -> None:
    plane = np.ones((1, 1, 8, 8), np.float32)
    plane[0, 0, 6, 6] = np.nan
    inner = [[0.0, 0.0, 4.0, 4.0]]
    for layer in BOX_LAYERS:
        assert not np.isnan(pooled(layer(inner, 1), plane)).any()
        assert np.isnan(pooled(layer([[4.0, 4.0, 8.0, 8.0]], 1), plane)).all()


def test_no_boxes_give_an_empty_result() -> None:
    for layer in BOX_LAYERS:
        assert pooled(layer(np.empty((0, 4)), 1), np.ones((2, 3, 5, 5), np.float32)).shape == (2, 0, 3, 1, 1)


@pytest.mark.parametrize(
    ("make", "field", "reason"),
    [
        (lambda: RoIAlign2d([[0, 1, 2, 3, 4]], 2), "boxes", "without the number of an image: (K, 4) for K boxes"),
        (lambda: RoIAlign2d([[0, 1, 2]], 2), "boxes", "must be x1, y1, x2, y2: (K, 4)"),
        (lambda: RoIAlign2d([0, 1, 2, 3], 2), "boxes", "must have 2 or 3 dimensions"),
        (lambda: RoIAlign2d([[0, 1, 2, math.nan]], 2), "boxes", "must be finite"),
        (lambda: RoIAlign2d([[0, 1, 2, 2**23]], 2, 4.0), "boxes", "must lie within +-16777216"),
        (
            lambda: RoIAlign2d(np.zeros((2**16 + 1, 4), np.uint8), 2),
            "boxes",
            "at most 65536 boxes in all; got 65537",
        ),
        (lambda: RoIAlign2d("boxes.npy", 2), "boxes", "must be an array, a tensor, or nested lists of numbers"),
        (lambda: RoIAlign2d(None, 2), "boxes", "must be an array, a tensor, or nested lists of numbers"),
        (lambda: RoIAlign2d(BOX, 0), "output_size", "must be from 1 to 1024; got 0"),
        (lambda: RoIAlign2d(BOX, (2, 2000)), "output_size", "must be from 1 to 1024; got 2000"),
        (lambda: RoIAlign2d(BOX, 2, 0.0), "spatial_scale", "must be from"),
        (lambda: RoIAlign2d(BOX, 2, math.nan), "spatial_scale", "must be from"),
        (lambda: RoIAlign2d(BOX, 2, 2.0**21), "spatial_scale", "must be from"),
        (lambda: RoIAlign2d(BOX, 2, 2.0**-21), "spatial_scale", "must be from"),
        (lambda: RoIAlign2d([[-(2.0**24) - 2, 0, 1, 1]], 2), "boxes", "must lie within +-16777216"),
        (lambda: RoIAlign2d([[0, 0, 1, 2.0**24 + 2]], 2), "boxes", "the spatial_scale, 1; got 0 to 16777218"),
        (lambda: RoIAlign2d(np.full((1, 4), 2.0**24 + 1), 2), "boxes", "the spatial_scale, 1; got 16777217"),
        (lambda: RoIAlign2d(BOX, 2, sampling_ratio=129), "sampling_ratio", "must be from"),
        (lambda: RoIAlign2d(BOX, 2, aligned=1), "aligned", "must be True or False"),  # type: ignore[arg-type]
        (lambda: output_shape(PSRoIPool2d(BOX, 2), (6, 8, 8)), "output_size", "must divide the number of channels"),
    ],
)
def test_wrong_parameters_are_refused_in_words(make: Any, field: str, reason: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        make()
    assert caught.value.field == field
    assert reason in caught.value.reason
