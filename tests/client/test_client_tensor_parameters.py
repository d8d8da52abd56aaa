"""Layers with tensors of their own, through the SDK and a real server."""

import asyncio
import gc
import io
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.layers.examples import EXAMPLES
from tests.layers.test_every_layer import pooled

from poolservice_client import (
    AsyncPoolClient,
    AvgUnpool2d,
    InvalidRequest,
    MaskedAvgPool1d,
    MaskedAvgPool2d,
    MaxPool2d,
    MaxUnpool2d,
    PoolClient,
    PoolSpec,
    RoIAlign2d,
    Sequential,
)

WITH_TENSORS = [(spec, shape) for spec, shape in EXAMPLES if spec.parameter_bytes]
X = np.random.default_rng(0).standard_normal((4, 3, 8, 9)).astype(np.float32)


@pytest.mark.parametrize(("spec", "shape"), WITH_TENSORS, ids=lambda one: type(one).__name__)
def test_a_layer_with_tensors_gives_the_same_through_the_service(
    client: PoolClient, spec: PoolSpec[Any], shape: tuple[int, ...]
) -> None:
    samples = np.random.default_rng(1).standard_normal((2, *shape)).astype(np.float32)
    expected = pooled(spec, samples)
    assert client.pool(samples, spec).tobytes() == expected.tobytes()
    assert client.pool(samples[0], spec).tobytes() == expected[0].tobytes()
    assert client.pool(samples, [spec, spec])[1].shape == expected.shape


def test_the_indices_of_max_pool_lead_back_through_max_unpool(client: PoolClient) -> None:
    values, indices = client.pool(X, MaxPool2d(2, return_indices=True))
    back = client.pool(values, MaxUnpool2d(indices, 2, output_size=X.shape[2:]))
    assert back.shape == X.shape
    assert np.count_nonzero(back) == values.size
    assert client.pool(back, MaxPool2d(2)).max() == values.max()
    np.testing.assert_allclose(client.pool(values, AvgUnpool2d(2)).sum(), values.sum(), 1e-4)


def test_lengths_and_boxes_belong_to_the_samples_of_a_request(client: PoolClient) -> None:
    sequences = np.random.default_rng(2).standard_normal((3, 5, 7)).astype(np.float32)
    means = client.pool(sequences, MaskedAvgPool1d(lengths=[7, 1, 3]))
    np.testing.assert_allclose(means[2, :, 0], sequences[2, :, :3].mean(1), 1e-5, 1e-6)
    boxes = np.random.default_rng(3).uniform(0, 7, (4, 2, 4))
    together = client.pool(X, RoIAlign2d(boxes, 2))
    assert together.shape == (4, 2, 3, 2, 2)
    for number in range(4):
        assert client.pool(X[number], RoIAlign2d(boxes[number], 2)).tobytes() == together[number].tobytes()
    vector = client.pool(X, RoIAlign2d(boxes, 2), output="features")
    assert vector.shape == (4, 2 * 3 * 2 * 2)


def test_concurrent_calls_with_tensors_of_their_own_do_not_mix(client: PoolClient) -> None:
    def call(number: int) -> bool:
        x = X[: number % 3 + 1, :, :, 0]
        spec = MaskedAvgPool1d(lengths=[(number + one) % 9 for one in range(len(x))])
        return bool(client.pool(x, spec).tobytes() == pooled(spec, x).tobytes())

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(call, range(200)))


def test_concurrent_asyncio_calls_with_equal_tensors_are_not_stacked_wrongly(server_address: str) -> None:
    spec = MaskedAvgPool1d(lengths=[5, 2])

    async def run() -> None:
        async with AsyncPoolClient(server_address) as client:
            samples = [X[number : number + 2, :, :, column] for number in range(3) for column in range(9)]
            results = await asyncio.gather(*[client.pool(x, spec) for x in samples])
            for x, result in zip(samples, results, strict=True):
                assert result.tobytes() == pooled(spec, x).tobytes()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("spec", "field", "reason"),
    [
        (MaskedAvgPool2d(np.ones((8, 8))), "mask", "must have the spatial shape of the input, [8, 9]"),
        (
            MaskedAvgPool2d(np.ones((3, 8, 9))),
            "mask",
            "has a row for each of 3 samples, but the tensor",
        ),
        (RoIAlign2d(np.ones((2, 1, 4)), 2), "boxes", "has a row for each of 2 samples, but the tensor has 4"),
        (MaxUnpool2d(np.full((3, 8, 9), 288), 2), "indices", "must be from 0 to 287"),
        (
            Sequential([MaxPool2d(2), MaskedAvgPool2d(np.ones((8, 9)))]),
            "layers[1].mask",
            "must have the spatial shape of the input, [4, 4]; got [8, 9]",
        ),
    ],
)
def test_a_tensor_that_does_not_suit_the_input_is_refused_with_its_field(
    client: PoolClient, spec: PoolSpec[Any], field: str, reason: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        client.pool(X, spec)
    assert caught.value.field == f"specs[0].{field}"
    assert reason in str(caught.value)
    assert client.pool(X, MaxPool2d(2)).shape == (4, 3, 4, 4)


def test_a_parameter_of_the_largest_size_is_accepted(client: PoolClient) -> None:
    mask = np.zeros((2048, 4096), np.uint8)
    mask[5, 7] = 1
    x = np.zeros((1, 2048, 4096), np.float16)
    x[0, 5, 7] = 3
    assert client.pool(x, MaskedAvgPool2d(mask)).item() == 3
    with pytest.raises(InvalidRequest, match="may have tensors of 8388608 bytes in all as parameters"):
        client.pool(x, [MaskedAvgPool2d(mask), MaskedAvgPool2d(mask, 2)])


def test_small_inputs_with_large_tensors_fit_into_messages(client: PoolClient) -> None:
    # 64 of them would exceed the limit of a message.
    spec = RoIAlign2d(np.ones((2**16, 4)), 1)
    x = np.ones((1, 2, 2), np.float32)
    with ThreadPoolExecutor(16) as threads:
        results = list(threads.map(lambda _: client.pool(x, spec), range(40)))
    assert all(result.shape == (2**16, 1, 1, 1) for result in results)
    mapped = list(client.map([x] * 40, spec))
    assert all(result.tobytes() == results[0].tobytes() for result in mapped)


def test_the_client_keeps_no_large_tensors(client: PoolClient) -> None:
    spec = MaskedAvgPool2d(np.ones((4, 8, 9), np.float64).repeat(20, 1)[:, :160])
    x = np.ones((4, 1, 160, 9), np.float32)
    client.pool(x, spec)
    kept = weakref.ref(spec)
    del spec
    gc.collect()
    assert kept() is None


def test_an_image_is_pooled_with_boxes_and_masks(client: PoolClient) -> None:
    pixels = np.random.default_rng(4).integers(0, 256, (12, 10, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    planes = (pixels.transpose(2, 0, 1) / np.float32(255)).astype(np.float32)
    for spec in (RoIAlign2d([[1.0, 2.0, 8.0, 9.0]], 2), MaskedAvgPool2d(np.eye(12, 10))):
        np.testing.assert_allclose(client.pool(file.getvalue(), spec), pooled(spec, planes[None])[0], 1e-5)
