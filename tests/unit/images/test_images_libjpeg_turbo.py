"""libjpeg-turbo gives exactly the pixels of Pillow, or leaves the file to Pillow."""

from io import BytesIO
from random import Random
from typing import Any

import numpy as np
import pytest
from PIL import Image

from poolservice.errors import InvalidRequest
from poolservice_server import images
from poolservice_server.images import ColorMode, libjpeg_turbo

PIXELS = 10**6


def random_image(size: tuple[int, int], seed: int) -> Image.Image:
    """Return smooth colors with noise, which uses all JPEG coefficients."""
    width, height = size
    across, down = np.meshgrid(np.linspace(0, 9, width), np.linspace(0, 7, height))
    waves = np.stack((np.sin(across + down), np.cos(across * 1.7), np.sin(down * 2.3)), axis=-1)
    noise = np.random.default_rng(seed).normal(0, 12, (height, width, 3))
    return Image.fromarray(np.clip(waves * 100 + 128 + noise, 0, 255).astype(np.uint8))


def encode_jpeg(image: Image.Image, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def decode_with_pillow(file: bytes, mode: ColorMode, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    with monkeypatch.context() as patch:
        patch.setattr(libjpeg_turbo, "simplejpeg", None)
        return images.decode(file, mode, max_pixels=PIXELS)


def decode_or_error(file: bytes) -> np.ndarray | str:
    """Return the planes, or the error message."""
    try:
        return images.decode(file, "RGB", max_pixels=PIXELS)
    except InvalidRequest as error:
        return str(error)


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (33, 17), (7, 130), (200, 121)])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_pixels_are_those_of_pillow(
    size: tuple[int, int], subsampling: int, progressive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for quality in (5, 75, 95):
        file = encode_jpeg(
            random_image(size, quality), quality=quality, subsampling=subsampling, progressive=progressive
        )
        scanned = images.scan(file, max_pixels=PIXELS)
        assert libjpeg_turbo.decode_jpeg(file, scanned.header, "RGB", interleaved=False) is not None
        modes: tuple[ColorMode, ...] = ("RGB", "RGBA", "GRAY")
        for mode in modes:
            expected = decode_with_pillow(file, mode, monkeypatch)
            planes = images.decode(file, mode, max_pixels=PIXELS)
            np.testing.assert_array_equal(planes, expected, strict=True)
            assert planes.flags.c_contiguous
        interleaved = images.decode_scanned(scanned, "RGB", max_pixels=PIXELS, interleaved=True)
        np.testing.assert_array_equal(interleaved, decode_with_pillow(file, "RGB", monkeypatch), strict=True)
        assert np.moveaxis(interleaved, 0, -1).flags.c_contiguous


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "GRAY"])
def test_gray_files_are_decoded_in_every_mode(mode: ColorMode, monkeypatch: pytest.MonkeyPatch) -> None:
    file = encode_jpeg(random_image((45, 31), 1).convert("L"))
    assert (
        libjpeg_turbo.decode_jpeg(file, images.read_header(file, max_pixels=PIXELS), mode, interleaved=True) is not None
    )
    planes = images.decode(file, mode, max_pixels=PIXELS)
    np.testing.assert_array_equal(planes, decode_with_pillow(file, mode, monkeypatch), strict=True)


def test_rotated_and_cmyk_files_are_left_to_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    rotated = encode_jpeg(random_image((40, 30), 2), exif=exif)
    cmyk = encode_jpeg(random_image((40, 30), 3).convert("CMYK"))
    for file, shape in ((rotated, (3, 40, 30)), (cmyk, (3, 30, 40))):
        assert (
            libjpeg_turbo.decode_jpeg(file, images.read_header(file, max_pixels=PIXELS), "RGB", interleaved=True)
            is None
        )
        planes = images.decode(file, "RGB", max_pixels=PIXELS)
        assert planes.shape == shape
        np.testing.assert_array_equal(planes, decode_with_pillow(file, "RGB", monkeypatch), strict=True)


def test_damaged_files_are_decoded_or_rejected_as_by_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    random = Random(4)
    intact = [encode_jpeg(random_image((64, 48), seed), progressive=bool(seed % 2)) for seed in range(4)]
    decoded = rejected = 0
    for _ in range(400):
        file = bytearray(random.choice(intact))
        for _ in range(random.choice((1, 1, 3))):
            at = random.randrange(len(file))
            if random.random() < 0.7:
                file[at] = random.randrange(256)
            else:
                del file[at : at + random.randrange(1, 40)]
        with monkeypatch.context() as patch:
            patch.setattr(libjpeg_turbo, "simplejpeg", None)
            expected = decode_or_error(bytes(file))
        got = decode_or_error(bytes(file))
        if isinstance(expected, str):
            rejected += 1
            assert got == expected
        else:
            decoded += 1
            np.testing.assert_array_equal(got, expected, strict=True)
    assert decoded > 50
    assert rejected > 50
