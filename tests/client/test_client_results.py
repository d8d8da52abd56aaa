"""Results: arrays, indices, features, images, the execution report, server info and health."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from poolservice_client import (
    AdaptiveMaxPool2d,
    AvgPool2d,
    Execution,
    GlobalAvgPool1d,
    GlobalAvgPool2d,
    Health,
    InvalidRequest,
    MaxPool1d,
    MaxPool2d,
    MinPool2d,
    PoolClient,
    PoolSpec,
)

X = np.random.default_rng(7).standard_normal((3, 12, 10)).astype(np.float32)


def test_one_spec_gives_an_array_that_owns_its_memory(client: PoolClient) -> None:
    y = client.pool(X, MaxPool2d(2))
    np.testing.assert_array_equal(y, F.max_pool2d(torch.from_numpy(X), 2).numpy(), strict=True)
    assert y.flags.writeable
    assert y.flags.owndata
    assert y.flags.c_contiguous


def test_return_indices_gives_a_pair(client: PoolClient) -> None:
    y, indices = client.pool(X, MaxPool2d(2, return_indices=True))
    expected, expected_indices = F.max_pool2d(torch.from_numpy(X), 2, return_indices=True)
    np.testing.assert_array_equal(y, expected.numpy(), strict=True)
    np.testing.assert_array_equal(indices, expected_indices.numpy(), strict=True)


def test_several_specs_give_a_list_in_their_order(client: PoolClient) -> None:
    specs: list[PoolSpec] = [AvgPool2d(2), MinPool2d(3, return_indices=True), GlobalAvgPool2d()]
    mean, (low, indices), overall = client.pool(X, specs)
    assert mean.shape == (3, 6, 5)
    assert low.shape == indices.shape == (3, 4, 3)
    np.testing.assert_allclose(overall[:, 0, 0], X.mean(axis=(1, 2)), rtol=1e-5)


@pytest.mark.parametrize("specs", [[GlobalAvgPool2d()], (GlobalAvgPool2d(),)])
def test_a_list_of_one_spec_gives_a_list_of_one(client: PoolClient, specs: list[GlobalAvgPool2d]) -> None:
    (y,) = client.pool(X, specs)
    assert y.shape == (3, 1, 1)


def test_features_are_flat_and_optionally_normalized(client: PoolClient) -> None:
    flat = client.pool(X, AvgPool2d(2), output="features")
    np.testing.assert_allclose(flat, F.avg_pool2d(torch.from_numpy(X), 2).numpy().reshape(-1), rtol=1e-6)
    unit = client.pool(X, AvgPool2d(2), output="features", normalize=True)
    np.testing.assert_allclose(unit, flat / np.linalg.norm(flat), rtol=1e-5)
    assert client.pool(np.stack([X, X]), AvgPool2d(2), output="features").shape == (2, 90)


def test_float16_results(client: PoolClient) -> None:
    y = client.pool(X, MaxPool2d(2), dtype="float16")
    np.testing.assert_array_equal(y, client.pool(X, MaxPool2d(2)).astype(np.float16), strict=True)


def test_execution_reports_the_device_and_the_batch(client: PoolClient) -> None:
    response = client.pool(X, MaxPool2d(2), execution=True)
    y, execution = response
    assert response.result is y
    assert y.shape == (3, 6, 5)
    assert isinstance(execution, Execution)
    assert execution.device.startswith(("cpu", "cuda"))
    assert execution.batch_size >= 1
    assert execution.decode_microseconds == 0


def test_execution_reports_the_decoding_time_of_an_image(client: PoolClient, photograph: Path) -> None:
    ys, execution = client.pool(photograph, [MaxPool2d(2), GlobalAvgPool2d()], execution=True)
    assert [y.shape for y in ys] == [(3, 300, 256), (3, 1, 1)]
    assert execution.decode_microseconds > 0


@pytest.mark.parametrize(("color_mode", "channels"), [(None, 3), ("RGB", 3), ("GRAY", 1), ("RGBA", 4)])
def test_color_mode_sets_the_channels_of_an_image(
    client: PoolClient, photograph: Path, color_mode: None, channels: int
) -> None:
    y = client.pool(photograph, GlobalAvgPool2d(), color_mode=color_mode)
    assert y.shape == (channels, 1, 1)


def test_a_1d_operator_pools_each_row_of_an_image(client: PoolClient, photograph: Path) -> None:
    largest, mean = client.pool(photograph, [MaxPool1d(2), GlobalAvgPool1d()])
    pixels = torch.from_numpy(np.asarray(Image.open(photograph).convert("RGB")).transpose(2, 0, 1) / np.float32(255))
    np.testing.assert_array_equal(largest, F.max_pool1d(pixels, 2).numpy(), strict=True)
    np.testing.assert_allclose(mean, pixels.mean(2, keepdim=True).numpy(), rtol=1e-6)


def test_pool_image_returns_an_image(client: PoolClient, photograph: Path) -> None:
    image = client.pool_image(photograph, MaxPool2d(2))
    assert isinstance(image, Image.Image)
    assert image.mode == "RGB"
    pixels = np.asarray(Image.open(photograph).convert("RGB"))
    np.testing.assert_array_equal(np.asarray(image), pixels.reshape(300, 2, 256, 2, 3).max(axis=(1, 3)))
    gray, small = client.pool_image(photograph, [MaxPool2d(2), AdaptiveMaxPool2d(10)], color_mode="GRAY")
    assert (gray.mode, gray.size) == ("L", (256, 300))
    assert small.size == (10, 10)


def test_pool_image_takes_a_tensor(client: PoolClient) -> None:
    x = np.linspace(0, 1, 3 * 4 * 4, dtype=np.float32).reshape(3, 4, 4)
    image = client.pool_image(x, MaxPool2d(1))
    np.testing.assert_array_equal(np.asarray(image), np.rint(x * 255).astype(np.uint8).transpose(1, 2, 0))


def test_bfloat16_results_have_the_dtype_of_ml_dtypes(client: PoolClient) -> None:
    y = client.pool(X.astype(ml_dtypes.bfloat16), AvgPool2d(2))
    assert y.dtype == ml_dtypes.bfloat16


def test_server_info(client: PoolClient) -> None:
    info = client.server_info()
    assert info.version
    assert info.torch_version == torch.__version__
    assert {"float32", "bfloat16", "uint8"} <= set(info.dtypes)
    assert {"JPEG", "PNG"} <= set(info.image_formats)
    assert info.limits.max_message_bytes == 64 * 2**20
    assert info.devices[0].state == "SERVING"
    by_name = {operator.name: operator for operator in info.operators}
    assert by_name["max_pool"].spatial_dims == (1, 2, 3)
    kernel_size, stride = by_name["max_pool"].parameters[:2]
    assert (kernel_size.name, kernel_size.default) == ("kernel_size", None)
    assert stride.name == "stride"


def test_health_is_a_condition(client: PoolClient) -> None:
    assert client.health() is Health.SERVING
    assert client.health()
    assert not Health.NOT_SERVING
    assert Health.SERVING == "SERVING"


def test_the_server_rejects_specs_like_their_constructor(client: PoolClient) -> None:
    with pytest.raises(InvalidRequest) as local:
        MaxPool2d(2, padding=2)
    assert local.value.field == "padding"
    with pytest.raises(InvalidRequest) as remote:
        client.pool(X, MaxPool2d(40))
    assert remote.value.field
    assert remote.value.reason in str(remote.value)
    assert str(remote.value).startswith(remote.value.field)


def test_the_environment_sets_the_address(server_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POOLSERVICE_ADDRESS", server_address)
    with PoolClient() as client:
        assert client.address == server_address
        assert client.health()
    monkeypatch.delenv("POOLSERVICE_ADDRESS")
    with PoolClient() as client:
        assert client.address == "localhost:50051"
