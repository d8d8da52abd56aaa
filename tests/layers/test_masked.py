"""The masked layers, compared with their formulas in float64."""

import math
from typing import Any

import numpy as np
import pytest
from tests.layers.test_every_layer import pooled

from poolservice.errors import InvalidRequest
from poolservice.specs import (
    MaskedAvgPool1d,
    MaskedAvgPool2d,
    MaskedAvgPool3d,
    MaskedGeMPool1d,
    MaskedGeMPool2d,
    MaskedGeMPool3d,
    MaskedMaxPool1d,
    MaskedMaxPool2d,
    MaskedMaxPool3d,
)
from poolservice_server.operator_shapes import output_shape, window_grid

MASKED = {
    "avg": (MaskedAvgPool1d, MaskedAvgPool2d, MaskedAvgPool3d),
    "max": (MaskedMaxPool1d, MaskedMaxPool2d, MaskedMaxPool3d),
    "gem": (MaskedGeMPool1d, MaskedGeMPool2d, MaskedGeMPool3d),
}
SHAPES = {1: (2, 3, 23), 2: (2, 2, 11, 9), 3: (2, 1, 5, 4, 6)}


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
    [
        ("avg", {}),
        ("max", {}),
        ("gem", {"p": 1.0, "eps": 5.0}),
        ("gem", {}),
        ("gem", {"p": 37.5}),
        ("gem", {"p": 1e5, "eps": 2.0}),
    ],
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


def test_the_scale_of_a_mask_does_not_matter_even_if_it_differs_by_sample() -> None:
    samples = np.arange(8, dtype=np.float32).reshape(2, 1, 4)
    assert pooled(MaskedAvgPool1d([[1e-60, 3e-60, 0, 0], [1e60, 3e60, 0, 0]]), samples).ravel().tolist() == [0.75, 4.75]


@pytest.mark.parametrize("weight", [1e-308, 1e-310, 1e-320])
def test_a_mask_below_the_least_normal_number_is_a_mask(weight: float) -> None:
    samples = np.array([[[1, 5, 9, 9]]], np.float32)
    for layer in (MaskedAvgPool1d, MaskedGeMPool1d):
        expected = pooled(layer([1, 1, 0, 0]), samples)
        assert pooled(layer([weight, weight, 0, 0]), samples) == expected


def test_the_masked_maximum_of_integers_is_exact() -> None:
    samples = np.array([[[-(2**63), 2**62 + 1, 2**63 - 1]]])
    assert pooled(MaskedMaxPool1d([1, 1, 0]), samples).item() == 2**62 + 1
    assert pooled(MaskedMaxPool1d([1, 0, 0]), samples).item() == -(2**63)


def test_the_masked_generalized_mean_overflows_nowhere() -> None:
    samples = np.array([[[1e30, 2e30, 3e38]]], np.float32)
    np.testing.assert_allclose(pooled(MaskedGeMPool1d([1, 1, 0], p=1e6), samples).item(), 2e30, 1e-5)
    np.testing.assert_allclose(pooled(MaskedGeMPool1d([1, 1, 0], p=3), samples).item(), 1e30 * 4.5 ** (1 / 3), 1e-5)
    np.testing.assert_allclose(pooled(MaskedGeMPool1d([1e-30, 0, 3e-30], p=1), samples).item(), 2.25e38, 1e-5)


@pytest.mark.parametrize(
    ("make", "field", "reason"),
    [
        (lambda: MaskedAvgPool2d(), "mask", "is required: the weight of each value"),
        (lambda: MaskedAvgPool1d(), "mask", "the weight of each value, or lengths"),
        (lambda: MaskedAvgPool2d(lengths=2), "lengths", "is for sequences"),
        (lambda: MaskedAvgPool1d([1], lengths=2), "lengths", "is instead of a mask"),
        (lambda: MaskedAvgPool1d(lengths=-1), "lengths", "must be at least 0; got -1"),
        (lambda: MaskedAvgPool1d(lengths=2.5), "lengths", "must have integers; got an array of float64"),
        (lambda: MaskedAvgPool1d([0.5, -1]), "mask", "must have no weight below 0; got -1.0"),
        (lambda: MaskedAvgPool1d([0.5, math.inf]), "mask", "must be finite"),
        (lambda: MaskedGeMPool1d([1], p=0.5), "p", "must be from 1"),
        (lambda: MaskedGeMPool1d([1], p=math.nan), "p", "must be from 1"),
        (lambda: MaskedGeMPool1d([1], p=2e6), "p", "must be from 1 to 1e+06"),
        (lambda: MaskedGeMPool1d([1], eps=2e30), "eps", "must be from 0 to 1e+30"),
        (lambda: MaskedGeMPool1d([1], eps=-0.5), "eps", "must be from 0 to 1e+30"),
        (lambda: MaskedMaxPool1d([1], stride=2), "stride", "goes with a kernel_size"),
        (lambda: output_shape(MaskedAvgPool1d(lengths=10), (2, 9)), "lengths", "at most the input's length, 9; got 10"),
        (lambda: output_shape(MaskedAvgPool2d([[1, 2]]), (2, 2, 1)), "mask", "the spatial shape of the input, [2, 1]"),
    ],
)
def test_wrong_parameters_are_refused_in_words(make: Any, field: str, reason: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        make()
    assert caught.value.field == field
    assert reason in caught.value.reason
