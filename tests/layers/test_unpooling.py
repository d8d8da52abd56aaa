"""The unpooling layers, compared with torch and with their formulas in float64."""

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
    MaxUnpool1d,
    MaxUnpool2d,
    MaxUnpool3d,
)
from poolservice_server.operator_shapes import output_shape
from poolservice_server.pooling.torch_operators.unpooling import scatter_in_order

SHAPES = {1: (2, 3, 23), 2: (2, 2, 11, 9), 3: (2, 1, 5, 4, 6)}


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


@pytest.mark.parametrize(
    ("make", "field", "reason"),
    [
        (lambda: MaxUnpool1d([[0.0]], 2), "indices", "must have integers; got an array of float64"),
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
