"""The layers with tensors of their own, compared with their formulas in float64."""

import math
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.layers.test_every_layer import pooled

from poolservice.errors import InvalidRequest
from poolservice.specs import (
    AvgUnpool1d,
    AvgUnpool2d,
    AvgUnpool3d,
    MaskedAvgPool1d,
    MaskedAvgPool2d,
    MaskedAvgPool3d,
    MaskedGemPool1d,
    MaskedGemPool2d,
    MaskedGemPool3d,
    MaskedMaxPool1d,
    MaskedMaxPool2d,
    MaskedMaxPool3d,
    MaxPool2d,
    MaxUnpool1d,
    MaxUnpool2d,
    MaxUnpool3d,
    PoolSpec,
    PSRoIAlign2d,
    PSRoIPool2d,
    RoIAlign2d,
    RoIPool2d,
    Sequential,
)
from poolservice_server.backend.cpu import CpuDevice
from poolservice_server.backend.policy import Backend
from poolservice_server.operator_shapes import output_shape, window_grid
from poolservice_server.pool_stage import BatchKey, PoolStage
from poolservice_server.pooling import run_on_arrays, run_on_tensors
from poolservice_server.pooling.torch_operators.unpooling import scatter_in_order

BOX_LAYERS = (RoIAlign2d, RoIPool2d, PSRoIAlign2d, PSRoIPool2d)
MASKED = {
    "avg": (MaskedAvgPool1d, MaskedAvgPool2d, MaskedAvgPool3d),
    "max": (MaskedMaxPool1d, MaskedMaxPool2d, MaskedMaxPool3d),
    "gem": (MaskedGemPool1d, MaskedGemPool2d, MaskedGemPool3d),
}
SHAPES = {1: (2, 3, 23), 2: (2, 2, 11, 9), 3: (2, 1, 5, 4, 6)}
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


def window_slices(window: Any, spatial: tuple[int, ...], place: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(
        slice(max(one * stride - padding, 0), min(one * stride - padding + kernel, size))
        for one, kernel, stride, padding, size in zip(
            place, window.kernel_size, window.stride, window.padding, spatial, strict=True
        )
    )


def masked_reference(kind: str, spec: Any, samples: Any, masks: Any) -> Any:
    dims = spec.spatial_dims
    spatial = samples.shape[2:]
    window = spec.window_in(spatial)
    result = np.zeros((*samples.shape[:2], *window_grid(window, spatial)))
    for place in np.ndindex(result.shape):
        at = window_slices(window, spatial, place[-dims:])
        values = samples[place[0], place[1]].astype(np.float64)[at]
        weights = masks[place[0]].astype(np.float64)[at]
        values, weights = values[weights > 0], weights[weights > 0]
        if not values.size:
            continue
        if kind == "max":
            result[place] = values.max()
        elif kind == "avg":
            result[place] = (values * weights).sum() / weights.sum()
        else:
            values = np.maximum(values, spec.eps)
            largest = values.max()
            mean = (weights * (values / largest) ** spec.p).sum() / weights.sum()
            result[place] = largest * mean ** (1 / spec.p)
    return result


@pytest.mark.parametrize(
    ("kind", "more"),
    [("avg", {}), ("max", {}), ("gem", {"p": 1.0}), ("gem", {}), ("gem", {"p": 37.5}), ("gem", {"p": 1e5, "eps": 2.0})],
)
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("windows", [(), (3, 2, 1, True), (2, 3), (4, 1, 2)])
def test_masked_windows_follow_their_formula(
    kind: str, more: dict[str, float], dims: int, windows: tuple[Any, ...]
) -> None:
    generator = np.random.default_rng(dims + len(windows))
    samples = (generator.standard_normal(SHAPES[dims]) * 30).astype(np.float32)
    spatial = samples.shape[2:]
    weighted = generator.uniform(0, 7, (2, *spatial)) * (generator.uniform(size=(2, *spatial)) < 0.4)
    names = dict(zip(("kernel_size", "stride", "padding", "ceil_mode"), windows, strict=False))
    layer: Any = MASKED[kind][dims - 1]
    for mask in (weighted, weighted[0], (weighted > 0).astype(np.uint8), (weighted > 1)[1]):
        spec = layer(mask, **more, **names)
        expected = masked_reference(kind, spec, samples, np.broadcast_to(mask, (2, *spatial)))
        np.testing.assert_allclose(
            pooled(spec, samples), expected, 0 if kind == "max" else 1e-5, 1e-5 * (kind != "max")
        )


@pytest.mark.parametrize("kind", MASKED)
def test_lengths_are_a_mask_of_the_first_values(kind: str) -> None:
    samples = np.random.default_rng(5).standard_normal((4, 3, 9)).astype(np.float32)
    layer: Any = MASKED[kind][0]
    lengths = np.array([9, 0, 4, 1])
    mask = np.arange(9) < lengths[:, None]
    for names in ({}, {"kernel_size": 3, "stride": 2}):
        expected = pooled(layer(mask, **names), samples)
        assert pooled(layer(lengths=lengths, **names), samples).tobytes() == expected.tobytes()
    assert not pooled(layer(lengths=lengths), samples)[1].any()
    same = pooled(layer(lengths=4), samples)
    assert same[2].tobytes() == pooled(layer(lengths=lengths), samples)[2].tobytes()


@pytest.mark.parametrize("kind", MASKED)
def test_a_value_without_weight_does_not_count_not_even_nan(kind: str) -> None:
    layer: Any = MASKED[kind][0]
    samples = np.array([[[2.0, np.nan, 2.0, -np.inf]]], np.float32)
    assert pooled(layer([1, 0, 1, 0]), samples).item() == 2
    assert np.isnan(pooled(layer([1, 1, 0, 0]), samples).item())
    assert pooled(layer([0, 0, 0, 0]), samples).item() == 0


def test_the_masked_maximum_of_integers_is_exact() -> None:
    samples = np.array([[[-(2**63), 2**62 + 1, 2**63 - 1]]])
    assert pooled(MaskedMaxPool1d([1, 1, 0]), samples).item() == 2**62 + 1
    assert pooled(MaskedMaxPool1d([1, 0, 0]), samples).item() == -(2**63)


def test_the_masked_generalized_mean_overflows_nowhere() -> None:
    samples = np.array([[[1e30, 2e30, 3e38]]], np.float32)
    np.testing.assert_allclose(pooled(MaskedGemPool1d([1, 1, 0], p=1e6), samples).item(), 2e30, 1e-5)
    np.testing.assert_allclose(pooled(MaskedGemPool1d([1, 1, 0], p=3), samples).item(), 1e30 * 4.5 ** (1 / 3), 1e-5)
    np.testing.assert_allclose(pooled(MaskedGemPool1d([1e-30, 0, 3e-30], p=1), samples).item(), 2.25e38, 1e-5)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_max_unpool_is_torchs(dims: int) -> None:
    layer: Any = (MaxUnpool1d, MaxUnpool2d, MaxUnpool3d)[dims - 1]
    pool: Any = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[dims - 1]
    unpool: Any = (F.max_unpool1d, F.max_unpool2d, F.max_unpool3d)[dims - 1]
    samples = torch.from_numpy(np.random.default_rng(dims).standard_normal(SHAPES[dims]).astype(np.float32))
    for kernel, stride, padding in ((2, 2, 0), (3, 2, 1), (3, 1, 1), (2, 3, 1)):
        values, indices = pool(samples, kernel, stride, padding, return_indices=True)
        spec = layer(indices, kernel, stride, padding, tuple(samples.shape[2:]))
        expected = unpool(values, indices, kernel, stride, padding, samples.shape[2:])
        assert pooled(spec, values.numpy()).tobytes() == expected.numpy().tobytes()


def test_of_several_values_for_one_position_the_last_one_counts_on_every_device() -> None:
    generator = np.random.default_rng(4)
    samples = generator.standard_normal((2, 3, 8, 8)).astype(np.float32)
    indices = generator.integers(0, 20, samples.shape)
    expected = np.zeros((2, 3, 256), np.float32)
    for place in np.ndindex(samples.shape):
        expected[(*place[:2], indices[place])] = samples[place]
    assert pooled(MaxUnpool2d(indices, 2), samples).reshape(expected.shape).tobytes() == expected.tobytes()
    flat_indices, values = (torch.from_numpy(one.reshape(2, 3, 64)) for one in (indices, samples))
    on_gpu = scatter_in_order(torch.zeros(expected.shape), flat_indices, values)
    assert on_gpu.numpy().tobytes() == expected.tobytes()


def test_max_unpool_keeps_integers() -> None:
    samples = np.array([[[2**62 + 1, -5]]])
    assert pooled(MaxUnpool1d([[3, 0]], 2), samples).tolist() == [[[-5, 0, 0, 2**62 + 1]]]


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("window", [(2, 2, 0), (3, 2, 1), (3, 1, 0), (2, 3, 1), (5, 2, 2)])
def test_avg_unpool_spreads_each_value_over_its_window(dims: int, window: tuple[int, int, int]) -> None:
    kernel, stride, padding = window
    samples = np.random.default_rng(dims).standard_normal(SHAPES[dims]).astype(np.float32)
    spatial = samples.shape[2:]
    layer: Any = (AvgUnpool1d, AvgUnpool2d, AvgUnpool3d)[dims - 1]
    default = [(size - 1) * stride - 2 * padding + kernel for size in spatial]
    for more in (None, 0, 1 - stride, stride - 1):
        out = tuple(size + (more or 0) for size in default)
        spec = layer(kernel, stride, padding, None if more is None else out)
        expected = np.zeros((*samples.shape[:2], *out))
        for place in np.ndindex(spatial):
            at = tuple(
                slice(max(one * stride - padding, 0), min(one * stride - padding + kernel, size))
                for one, size in zip(place, out, strict=True)
            )
            for plane in np.ndindex(samples.shape[:2]):
                positions = expected[plane][at]
                positions += samples[plane][place] / max(positions.size, 1)
        np.testing.assert_allclose(pooled(spec, samples), expected, 1e-5, 1e-5)


def test_avg_unpool_keeps_the_sum_of_the_values() -> None:
    samples = np.random.default_rng(1).standard_normal((1, 2, 5, 6))
    np.testing.assert_allclose(pooled(AvgUnpool2d(3, 2, 1), samples).sum(), samples.sum(), 1e-12)


def per_sample_specs() -> Iterator[tuple[Any, tuple[int, ...]]]:
    generator = np.random.default_rng(9)
    boxes = generator.uniform(0, 9, (3, 4, 4))
    yield RoIAlign2d(boxes, 2), (2, 7, 8)
    yield RoIPool2d(boxes, 2), (2, 7, 8)
    yield PSRoIAlign2d(boxes, 2), (8, 7, 8)
    yield PSRoIPool2d(boxes, 2), (8, 7, 8)
    yield MaskedAvgPool1d(lengths=[3, 0, 9]), (2, 9)
    yield MaskedMaxPool2d(generator.integers(0, 2, (3, 7, 8)), 2), (2, 7, 8)
    yield MaskedGemPool3d(generator.uniform(0, 1, (3, 3, 4, 5))), (2, 3, 4, 5)
    yield MaxUnpool1d(generator.integers(0, 8, (3, 2, 4)), 2), (2, 4)
    yield Sequential([MaxPool2d(2), MaskedAvgPool2d(generator.integers(0, 2, (3, 3, 4)))]), (2, 7, 8)


per_sample = pytest.mark.parametrize(("spec", "shape"), list(per_sample_specs()))


@per_sample
def test_each_sample_has_its_own_row_of_a_parameter(spec: Any, shape: tuple[int, ...]) -> None:
    samples = np.random.default_rng(2).standard_normal((3, *shape)).astype(np.float32)
    together = pooled(spec, samples)
    for number in range(3):
        alone = pooled(spec.of_samples(slice(number, number + 1)), samples[number : number + 1])
        assert alone.tobytes() == together[number : number + 1].tobytes()


@per_sample
def test_requests_with_equal_rows_may_share_a_batch(spec: Any, shape: tuple[int, ...]) -> None:
    requests = np.random.default_rng(2).standard_normal((2, 3, *shape)).astype(np.float32)
    stage = PoolStage.of((spec,), shape[0])
    planes = requests.reshape(2, -1, *shape[1:])
    alone = [run_on_arrays(stage, one)[0].values for one in planes]
    together = run_on_arrays(stage, planes.reshape(-1, *shape[1:]))[0].values
    assert together.tobytes() == b"".join(one.tobytes() for one in alone)
    on_gpu, _ = run_on_tensors(stage, torch.from_numpy(planes.reshape(-1, *shape[1:])))[0]
    np.testing.assert_allclose(on_gpu.numpy(), together, 1e-5, 1e-6)


@per_sample
def test_a_payload_beyond_the_size_of_a_batch_stays_whole_or_is_cut_between_samples(
    spec: Any, shape: tuple[int, ...]
) -> None:
    samples = np.random.default_rng(2).standard_normal((3, *shape)).astype(np.float32)
    planes = samples.reshape(-1, *shape[1:])
    backend = Backend([CpuDevice()], max_batch_bytes=64)
    for one in (spec, spec.of_samples(slice(1))):
        key = BatchKey(PoolStage.of((one,), shape[0]), shape[1:], planes.dtype)
        (outcome,) = backend.run(key, [planes])
        assert not isinstance(outcome, Exception)
        assert outcome.result[0].values.tobytes() == pooled(one, samples).tobytes()


@per_sample
def test_rows_for_another_number_of_samples_are_refused(spec: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidRequest, match="has a row for each of 3 samples, but the tensor has 2"):
        output_shape(spec, (2, *shape))
    with pytest.raises(InvalidRequest, match="has a row for each of 3 samples, but the tensor has 1"):
        output_shape(spec, shape)


@pytest.mark.parametrize(
    ("make", "field", "reason"),
    [
        (lambda: RoIAlign2d([[0, 1, 2, 3, 4]], 2), "boxes", "without the number of an image: (K, 4) for K boxes"),
        (lambda: RoIAlign2d([[0, 1, 2]], 2), "boxes", "must be x1, y1, x2, y2: (K, 4)"),
        (lambda: RoIAlign2d([0, 1, 2, 3], 2), "boxes", "must have 2 or 3 dimensions"),
        (lambda: RoIAlign2d([[0, 1, 2, math.nan]], 2), "boxes", "must be finite"),
        (lambda: RoIAlign2d([[0, 1, 2, 2**23]], 2, 4.0), "boxes", "must lie within +-16777216"),
        (lambda: RoIAlign2d(np.zeros((2**16 + 1, 4), np.uint8), 2), "boxes", "may have 65536 boxes in all; got 65537"),
        (lambda: RoIAlign2d("boxes.npy", 2), "boxes", "must be a tensor, or nested lists of numbers"),
        (lambda: RoIAlign2d(None, 2), "boxes", "must be a tensor, or nested lists of numbers"),
        (lambda: RoIAlign2d(BOX, 0), "output_size", "must be from 1"),
        (lambda: RoIAlign2d(BOX, (2, 2000)), "output_size", "must be at most 1024"),
        (lambda: RoIAlign2d(BOX, 2, 0.0), "spatial_scale", "must be from"),
        (lambda: RoIAlign2d(BOX, 2, math.nan), "spatial_scale", "must be from"),
        (lambda: RoIAlign2d(BOX, 2, sampling_ratio=129), "sampling_ratio", "must be from"),
        (lambda: RoIAlign2d(BOX, 2, aligned=1), "aligned", "must be True or False"),  # type: ignore[arg-type]
        (lambda: output_shape(PSRoIPool2d(BOX, 2), (6, 8, 8)), "output_size", "must divide the number of channels"),
        (lambda: MaskedAvgPool2d(), "mask", "is required: the weight of each value"),
        (lambda: MaskedAvgPool1d(), "mask", "the weight of each value, or lengths"),
        (lambda: MaskedAvgPool2d(lengths=2), "lengths", "is for sequences"),
        (lambda: MaskedAvgPool1d([1], lengths=2), "lengths", "is instead of a mask"),
        (lambda: MaskedAvgPool1d(lengths=-1), "lengths", "must be at least 0; got -1"),
        (lambda: MaskedAvgPool1d(lengths=2.5), "lengths", "must have numbers of type integer"),
        (lambda: MaskedAvgPool1d([0.5, -1]), "mask", "must have no weight below 0; got -1.0"),
        (lambda: MaskedAvgPool1d([0.5, math.inf]), "mask", "must be finite"),
        (lambda: MaskedGemPool1d([1], p=0.5), "p", "must be from 1"),
        (lambda: MaskedGemPool1d([1], p=math.nan), "p", "must be from 1"),
        (lambda: MaskedMaxPool1d([1], stride=2), "stride", "goes with a kernel_size"),
        (lambda: output_shape(MaskedAvgPool1d(lengths=10), (2, 9)), "lengths", "at most the input's length, 9; got 10"),
        (lambda: output_shape(MaskedAvgPool2d([[1, 2]]), (2, 2, 1)), "mask", "the spatial shape of the input, [2, 1]"),
        (lambda: MaxUnpool1d([[0.0]], 2), "indices", "must have numbers of type integer; got float64"),
        (lambda: MaxUnpool1d([[0]], 2, padding=2), "padding", "must be at most half the kernel"),
        (lambda: output_shape(MaxUnpool1d([[0]], 2), (2, 3)), "indices", "must have the shape of a sample, [2, 3]"),
        (lambda: output_shape(MaxUnpool1d([[0, 4]], 2), (1, 2)), "indices", "must be from 0 to 3"),
        (lambda: output_shape(MaxUnpool1d([[0, -1]], 2), (1, 2)), "indices", "got -1"),
        (lambda: output_shape(MaxUnpool1d([[0]], 2, 2, 0, 4), (1, 1)), "output_size", "less than the stride away"),
        (lambda: output_shape(AvgUnpool2d(1, 1, 0, 2), (1, 2, 3)), "output_size", "less than the stride away"),
        (lambda: output_shape(AvgUnpool1d(2, 1, 1), (1, 1)), "padding", "the result would have the size [0]"),
    ],
)
def test_wrong_parameters_are_refused_in_words(make: Any, field: str, reason: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        make()
    assert caught.value.field == field
    assert reason in caught.value.reason
