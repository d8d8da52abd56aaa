"""Inputs: every type that can be pooled, and the types that are rejected before anything is sent."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from poolservice_client import GlobalMaxPool2d, InvalidRequest, MaxPool2d, PoolClient

X = np.arange(2 * 6 * 8, dtype=np.float32).reshape(2, 6, 8)[:, ::-1].copy()
POOLED = X.reshape(2, 3, 2, 4, 2).max(axis=(2, 4))


class Array:
    """An object with __array__ only."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return X


class DLPack:
    """An object with DLPack's methods only."""

    def __dlpack__(self, **arguments: Any) -> Any:
        return X.__dlpack__(**arguments)

    def __dlpack_device__(self) -> tuple[int, int]:
        return X.__dlpack_device__()


class GpuArray(DLPack):
    """A DLPack object whose memory is on a GPU."""

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0


@pytest.mark.parametrize(
    "x",
    [
        X,
        np.asfortranarray(X),
        X.astype(">f4"),
        np.repeat(X, 2, axis=2)[:, :, ::2],
        X[::-1][::-1],
        X.T.copy().T,
        np.ascontiguousarray(X[:, ::-1])[:, ::-1],
        X.tolist(),
        tuple(X),
        Array(),
        DLPack(),
        torch.from_numpy(X),
        torch.from_numpy(X).requires_grad_(),
        torch.nn.Parameter(torch.from_numpy(X)),
        torch.from_numpy(np.ascontiguousarray(X.T)).permute(2, 1, 0),
        torch._neg_view(torch.from_numpy(-X)),
    ],
    ids=lambda x: type(x).__name__,
)
def test_a_tensor_of_any_type_and_layout(client: PoolClient, x: Any) -> None:
    y = client.pool(x, MaxPool2d(2))
    np.testing.assert_array_equal(y, POOLED.astype(y.dtype), strict=True)


@pytest.mark.parametrize(
    "dtype", ["f4", "f8", "f2", "u1", "u2", "i1", "i2", "i4", "i8", ">f8", ">i2", ">i8", ml_dtypes.bfloat16], ids=str
)
def test_the_result_of_an_order_statistic_has_the_dtype_of_the_input(client: PoolClient, dtype: Any) -> None:
    x = X.astype(dtype)
    y = client.pool(x, MaxPool2d(2))
    assert y.dtype == x.dtype.newbyteorder("<")
    np.testing.assert_array_equal(y.astype(np.float32), POOLED.astype(dtype).astype(np.float32))


@pytest.mark.parametrize("strided", [False, True])
def test_torch_bfloat16(client: PoolClient, strided: bool) -> None:
    x = torch.from_numpy(X).bfloat16()
    y = client.pool(x.permute(0, 2, 1) if strided else x, MaxPool2d(2))
    assert y.dtype == ml_dtypes.bfloat16
    expected = POOLED.transpose(0, 2, 1) if strided else POOLED
    np.testing.assert_array_equal(y.astype(np.float32), expected)


@pytest.mark.parametrize("shape", [(0, 2, 4, 4), (3, 2, 4, 4)])
def test_batches_and_empty_batches(client: PoolClient, shape: tuple[int, ...]) -> None:
    assert client.pool(np.ones(shape, np.float32), MaxPool2d(2)).shape == (*shape[:2], 2, 2)


def test_an_image_as_path_bytes_and_pil_image(client: PoolClient, photograph: Path) -> None:
    data = photograph.read_bytes()
    by_path = client.pool(photograph, MaxPool2d(8))
    assert by_path.dtype == np.float32
    inputs: list[Any] = [str(photograph), data, bytearray(data), memoryview(data), memoryview(data * 2)[: len(data)]]
    inputs += [np.frombuffer(data, np.uint8).data, Image.open(photograph)]
    for x in inputs:
        np.testing.assert_array_equal(client.pool(x, MaxPool2d(8)), by_path, strict=True)


def test_a_strided_memoryview(client: PoolClient, photograph: Path) -> None:
    spread = np.repeat(np.frombuffer(photograph.read_bytes(), np.uint8), 2)
    np.testing.assert_array_equal(
        client.pool(spread[::2].data, GlobalMaxPool2d()), client.pool(photograph, GlobalMaxPool2d())
    )


def make_image(mode: str) -> Image.Image:
    """Return an image of the mode, with different gradients in its channels and some transparency."""
    ramp = np.linspace(0, 255, 24 * 16).reshape(16, 24).astype(np.uint8)
    color = Image.fromarray(np.dstack([ramp, ramp[::-1], ramp[:, ::-1], np.maximum(ramp, 100)]))
    if mode in ("I;16", "I;16B", "I"):
        return Image.fromarray(ramp.astype(np.int32) * 257).convert(mode)
    if mode == "La":
        return color.convert("LA").convert("La")
    if mode == "PA":
        return color.convert("RGB").convert("P").convert("PA")
    return (
        color.convert("LAB" if mode == "LAB" else mode)
        if mode in ("LA", "RGBA", "RGBa")
        else (color.convert("RGB").convert(mode))
    )


@pytest.mark.parametrize(
    ("mode", "read_as"),
    [(mode, "RGB") for mode in ("RGB", "L", "1", "P", "CMYK", "YCbCr", "HSV", "RGBX")]
    + [(mode, "RGBA") for mode in ("RGBA", "RGBa", "LA", "La", "PA")],
)
def test_a_pil_image_of_any_mode_is_pooled_by_its_pixels(client: PoolClient, mode: str, read_as: Any) -> None:
    image = make_image(mode)
    expected = np.asarray(
        image.convert("RGBA" if mode == "La" else read_as) if mode != "La" else image.convert("LA").convert("RGBA")
    )
    y = client.pool(image, MaxPool2d(1), color_mode=read_as)
    np.testing.assert_allclose(y, expected.transpose(2, 0, 1) / np.float32(255), rtol=1e-6)


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_a_16_bit_pil_image(client: PoolClient, mode: str) -> None:
    image = make_image(mode)
    y = client.pool(image, MaxPool2d(1), color_mode="GRAY")
    high_byte = np.asarray(image.convert("I")).astype(np.int64) >> 8
    np.testing.assert_allclose(y[0], high_byte / np.float32(255), rtol=1e-6)


def test_a_large_pil_image(client: PoolClient) -> None:
    pixels = np.add.outer(np.arange(2400), np.arange(2400)).astype(np.uint8)
    image = Image.fromarray(np.dstack([pixels, pixels.T, pixels[::-1]]))
    y = client.pool(image, MaxPool2d(100))
    expected = np.asarray(image).reshape(24, 100, 24, 100, 3).max(axis=(1, 3)).transpose(2, 0, 1)
    np.testing.assert_allclose(y, expected / np.float32(255), rtol=1e-6)


def test_a_rotated_pil_image_is_pooled_like_its_file(client: PoolClient) -> None:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    make_image("RGB").save(file, format="PNG", exif=exif)
    from_bytes = client.pool(file.getvalue(), MaxPool2d(2))
    assert from_bytes.shape == (3, 12, 8)
    np.testing.assert_array_equal(client.pool(Image.open(file), MaxPool2d(2)), from_bytes, strict=True)


def test_a_transparent_color_in_the_image_info_is_kept(client: PoolClient) -> None:
    image = make_image("RGB")
    image.info["transparency"] = image.getpixel((3, 3))
    y = client.pool(image, MaxPool2d(1), color_mode="RGBA")
    assert y[3, 3, 3] == 0
    assert y[3].max() == 1


class Unknown:
    """An object that cannot be pooled."""


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (lambda: np.float32(3), "a scalar has nothing to pool"),
        (lambda: np.array(3), "a scalar has nothing to pool"),
        (lambda: 3.5, "a scalar has nothing to pool"),
        (lambda: torch.tensor(1.0), "a scalar has nothing to pool"),
        (lambda: X > 0, "bool cannot be pooled; .* a mask can be sent as uint8"),
        (lambda: torch.from_numpy(X) > 0, "bool cannot be pooled"),
        (lambda: X.astype(complex), "complex128 cannot be pooled"),
        (lambda: torch.from_numpy(X).to(torch.complex64), "complex64 cannot be pooled"),
        (lambda: X.astype(object), "object cannot be pooled"),
        (lambda: X.astype(str), "cannot be pooled"),
        (lambda: X.astype(np.uint32), "uint32 cannot be pooled"),
        (lambda: X.astype("datetime64[s]"), "cannot be pooled"),
        (lambda: X.astype(ml_dtypes.float8_e4m3fn), "float8_e4m3fn cannot be pooled"),
        (lambda: torch.from_numpy(X).to(torch.float8_e4m3fn), "float8_e4m3fn cannot be pooled"),
        (lambda: np.ma.masked_less(X, 3), "mask would be lost"),
        (lambda: torch.from_numpy(X).to_sparse(), "must be dense"),
        (lambda: torch.empty(3, 4, device="meta"), "has no elements"),
        (lambda: GpuArray(), "copy it to the CPU first"),
        (lambda: [[1.0], [2.0, 3.0]], "this list makes no array"),
        (lambda: ["a.jpg", "b.jpg"], "one image at a time"),
        (lambda: [Image.new("RGB", (2, 2))], "one image at a time"),
        (lambda: None, "NoneType cannot be pooled; give a numpy array"),
        (lambda: Unknown(), r"Unknown cannot be pooled; give a numpy array"),
        (lambda: {"x": X}, "dict cannot be pooled"),
        (lambda: np.broadcast_to(np.float32(1), (10**5, 10**5, 10)), "400,000,000,000 bytes or more, and no message"),
        (lambda: "a\0b.jpg", r"a\\0b\.jpg: no file can have this name"),
        (lambda: "a\ud800.jpg", r"a\\ud800\.jpg': no file can have this name"),
        (lambda: Image.new("F", (4, 4)), "mode F has no lossless"),
        (lambda: Image.new("LAB", (4, 4)), "mode LAB has no lossless"),
        (lambda: Image.new("I", (4, 4), 70000), "0 to 65535; this one has 70000 to 70000"),
        (lambda: Image.new("RGB", (0, 4)), "the image is empty: 0 x 4"),
    ],
)
def test_an_input_that_cannot_be_pooled_is_rejected(x: Callable[[], Any], message: str) -> None:
    # No server listens there, so the input is rejected before it is sent.
    with PoolClient("127.0.0.1:1") as client, pytest.raises(InvalidRequest, match=message):
        client.pool(x(), MaxPool2d(2))


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/full", "/dev/null"])
def test_a_device_is_not_read(path: str) -> None:
    with PoolClient("127.0.0.1:1") as client, pytest.raises(OSError, match="This is a device; give a file"):
        client.pool(path, MaxPool2d(2))


def test_a_file_larger_than_any_message_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    with path.open("wb") as file:
        file.truncate(2**40)
    with PoolClient("127.0.0.1:1") as client, pytest.raises(InvalidRequest, match="no message has more than"):
        client.pool(path, MaxPool2d(2))


def test_a_missing_file_raises_the_error_of_open(tmp_path: Path) -> None:
    with PoolClient("127.0.0.1:1") as client, pytest.raises(FileNotFoundError, match=r"cat\.jpg"):
        client.pool(tmp_path / "cat.jpg", MaxPool2d(2))
