"""Input files: arrays and images by path, and errors about other files."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from poolservice_client import AsyncPoolClient, GlobalAvgPool2d, InvalidRequest, MaxPool2d, PoolClient

Pool = Callable[..., Awaitable[Any]]

X = np.random.default_rng(7).standard_normal((2, 3, 8, 8)).astype(np.float32)


@pytest.fixture(params=["pool", "async pool", "map", "async map"])
def pool(request: pytest.FixtureRequest, server_address: str) -> Pool:
    """Pools one input, once by each method of each client."""

    async def one(x: Any, specs: Any, **options: Any) -> Any:
        if request.param.startswith("async"):
            async with AsyncPoolClient(server_address) as aclient:
                if request.param == "async pool":
                    return await aclient.pool(x, specs, **options)
                (result,) = [result async for result in aclient.map([x], specs, **options)]
                return result
        with PoolClient(server_address) as client:
            if request.param == "pool":
                return client.pool(x, specs, **options)
            (result,) = client.map([x], specs, **options)
            return result

    return one


@pytest.mark.parametrize("array", [X, X.astype(">f8"), np.asfortranarray(X[0]), (X[0] * 100).astype(np.int16)])
async def test_an_npy_file_is_pooled_like_its_array(pool: Pool, tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "x.npy", array)
    expected = await pool(array, MaxPool2d(2))
    for path in (tmp_path / "x.npy", str(tmp_path / "x.npy")):
        np.testing.assert_array_equal(await pool(path, MaxPool2d(2)), expected, strict=True)


def test_pool_image_takes_an_npy_file(client: PoolClient, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.full((3, 4, 6), 51, np.uint8))
    image = client.pool_image(tmp_path / "x.npy", MaxPool2d(2))
    assert isinstance(image, Image.Image)
    assert (image.size, image.getpixel((0, 0))) == ((3, 2), (51, 51, 51))


def _save(folder: Path, name: str) -> Path:
    path = folder / name
    match name:
        case "several.npz":
            np.savez(path, a=X, b=X)
        case "objects.npy":
            np.save(path, np.array([{}], dtype=object), allow_pickle=True)
        case "truncated.npy":
            whole = folder / "whole.npy"
            np.save(whole, X)
            path.write_bytes(whole.read_bytes()[:-1])
        case "strings.npy":
            np.save(path, np.array(["a", "b"]))
        case "flat.npy":
            np.save(path, np.zeros(5))
        case "notes.txt":
            path.write_text("some notes")
        case "empty.jpg":
            path.touch()
        case "folder":
            path.mkdir()
    return path


@pytest.mark.parametrize(
    ("name", "field", "message"),
    [
        ("several.npz", "x", "this is an archive, .npz or .zip, .*give one image, or one array as .npy"),
        ("objects.npy", "x", "this .npy file holds Python objects, which are never unpickled"),
        ("truncated.npy", "x", "this .npy file cannot be read .*give a complete one"),
        ("strings.npy", "x.dtype", "str32 cannot be pooled; .*these are strings, not numbers"),
        ("flat.npy", "x.shape", "GlobalAvgPool2d takes 3 dimensions"),
        ("notes.txt", "x", "these 10 bytes are not a JPEG"),
        ("empty.jpg", "x", "there are no bytes; send a JPEG"),
    ],
)
async def test_an_error_about_a_file_names_the_file(
    pool: Pool, tmp_path: Path, name: str, field: str, message: str
) -> None:
    path = _save(tmp_path, name)
    with pytest.raises(InvalidRequest, match=f"^{field}: {path}: {message}") as raised:
        await pool(path, GlobalAvgPool2d())
    assert raised.value.field == field


async def test_an_error_about_bytes_names_no_file(pool: Pool) -> None:
    with pytest.raises(InvalidRequest, match=r"^x: these 10 bytes are not a JPEG"):
        await pool(b"some notes", GlobalAvgPool2d())


async def test_an_error_about_a_spec_does_not_name_the_file(pool: Pool, photograph: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"^specs\[0\].kernel_size: no window fits"):
        await pool(photograph, MaxPool2d(700))


@pytest.mark.parametrize(
    ("path", "error_class", "message"),
    [
        ("folder", IsADirectoryError, "This is a folder; give the files in it"),
        ("missing.jpg", FileNotFoundError, "No such file or directory"),
        ("https://example.org/a.jpg", FileNotFoundError, "A URL is not fetched; download it"),
        ("s3://bucket/a.jpg", FileNotFoundError, "A URL is not fetched; download it"),
    ],
)
async def test_a_path_that_is_not_a_file_says_what_to_give(
    pool: Pool, request: pytest.FixtureRequest, tmp_path: Path, path: str, error_class: type[OSError], message: str
) -> None:
    full_path = path if "://" in path else str(_save(tmp_path, path))
    if "map" in request.node.callspec.params["pool"]:
        # map raises InvalidRequest for any item, with the OSError as its cause.
        with pytest.raises(InvalidRequest, match=f"^x: {full_path}: {message}") as raised:
            await pool(full_path, GlobalAvgPool2d())
        error = raised.value.__cause__
    else:
        with pytest.raises(error_class, match=message) as raised_by_open:
            await pool(full_path, GlobalAvgPool2d())
        error = raised_by_open.value
    assert isinstance(error, error_class)
    assert error.filename == full_path


@pytest.mark.parametrize("name", ["x_ray.png", "x_ray.tif"])
async def test_a_16_bit_image_keeps_its_full_depth(pool: Pool, tmp_path: Path, name: str) -> None:
    # Twelve bits in a file of 16, as detectors store them.
    values = np.random.default_rng(38).integers(0, 4096, (16, 24), np.uint16)
    Image.fromarray(values).save(tmp_path / name)
    largest = await pool(tmp_path / name, MaxPool2d(2))
    expected = values.reshape(8, 2, 12, 2).max((1, 3)) / np.float32(65535)
    np.testing.assert_array_equal(largest, np.stack((expected,) * 3), strict=True)
    mean = await pool(Image.fromarray(values), GlobalAvgPool2d())
    np.testing.assert_allclose(mean, np.full((3, 1, 1), values.mean() / 65535), rtol=1e-6)
