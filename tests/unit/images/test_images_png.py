"""Encoding planes as PNG files, and reading them back."""

from io import BytesIO

import ml_dtypes
import numpy as np
import pytest
from PIL import Image

from poolservice.errors import InvalidRequest
from poolservice_server.images import decode, encode_png


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_uint8_is_written_unchanged(channels: int, mode: str) -> None:
    planes = np.random.default_rng(0).integers(0, 256, (channels, 5, 7), dtype=np.uint8)
    file = encode_png(planes)
    opened = Image.open(BytesIO(file))
    assert (opened.format, opened.mode, opened.size) == ("PNG", mode, (7, 5))
    pixels = np.asarray(opened).reshape(5, 7, channels)
    assert np.array_equal(pixels, planes.transpose(1, 2, 0))


def test_encoded_planes_decode_to_the_same_planes() -> None:
    planes = np.random.default_rng(1).integers(0, 256, (3, 31, 20), dtype=np.uint8)
    assert np.array_equal(decode(encode_png(planes), "RGB", max_pixels=1000), planes)


def test_strided_planes_are_encoded() -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (9, 8, 3), dtype=np.uint8)
    file = encode_png(pixels.transpose(2, 0, 1)[:, ::2, ::-1])
    assert np.array_equal(np.asarray(Image.open(BytesIO(file))), pixels[::2, ::-1])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_floats_are_scaled_and_clipped(dtype: type) -> None:
    values: np.ndarray = np.array([-1.0, 0.0, 1.0, 2.0, np.nan, np.inf, -np.inf, 0.5], dtype=dtype)
    planes = values.reshape(1, 1, 8)
    original = planes.copy()
    pixels = np.asarray(Image.open(BytesIO(encode_png(planes))))
    # 0.5 * 255 = 127.5 rounds to the even neighbor, 128.
    assert pixels.tolist() == [[0, 0, 255, 255, 0, 255, 0, 128]]
    assert planes.tobytes() == original.tobytes()


def test_every_8_bit_level_survives_scaling() -> None:
    levels = np.arange(256, dtype=np.uint8)
    scaled = (levels.astype(np.float32) / np.float32(255)).reshape(1, 16, 16)
    assert np.array_equal(np.asarray(Image.open(BytesIO(encode_png(scaled)))).ravel(), levels)
    # 2.5 and 3.5, exact in float64, round to the even neighbor.
    halves = np.array([[[2.5 / 255, 3.5 / 255]]])
    assert np.asarray(Image.open(BytesIO(encode_png(halves)))).tolist() == [[2, 4]]


@pytest.mark.parametrize("shape", [(2, 4, 4), (5, 4, 4), (4, 4), (1, 3, 4, 4), (0, 4, 4), (3, 0, 4), (3, 4, 0)])
def test_other_shapes_are_rejected(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidRequest, match="1, 3 or 4 channels") as caught:
        encode_png(np.zeros(shape, np.uint8))
    assert str(shape) in caught.value.reason


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64, np.bool_, np.complex64])
def test_other_dtypes_are_rejected(dtype: type) -> None:
    with pytest.raises(InvalidRequest, match=f"this result is {np.dtype(dtype).name}"):
        encode_png(np.zeros((1, 2, 2), dtype))


@pytest.mark.parametrize("height", [1, 3, 5, 16, 40])
def test_small_files_are_decoded_at_every_compression_level(height: int) -> None:
    for width in range(1, 41):
        for level in (1, 6, 9):
            file = BytesIO()
            Image.new("RGB", (width, height), (255, 128, 0)).save(file, "PNG", compress_level=level)
            planes = decode(file.getvalue(), "RGB", max_pixels=10_000)
            np.testing.assert_array_equal(planes, np.broadcast_to([[[255]], [[128]], [[0]]], (3, height, width)))
