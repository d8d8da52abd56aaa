"""JPEG files by libjpeg-turbo itself: the pixels that Pillow gives, or Pillow's turn."""

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


def a_picture(size: tuple[int, int], seed: int) -> Image.Image:
    """Smooth colours with noise, so that every coefficient counts."""
    width, height = size
    across, down = np.meshgrid(np.linspace(0, 9, width), np.linspace(0, 7, height))
    waves = np.stack((np.sin(across + down), np.cos(across * 1.7), np.sin(down * 2.3)), axis=-1)
    noise = np.random.default_rng(seed).normal(0, 12, (height, width, 3))
    return Image.fromarray(np.clip(waves * 100 + 128 + noise, 0, 255).astype(np.uint8))


def encoded(picture: Image.Image, **options: Any) -> bytes:
    file = BytesIO()
    picture.save(file, "JPEG", **options)
    return file.getvalue()


def by_pillow(file: bytes, mode: ColorMode, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    with monkeypatch.context() as without:
        without.setattr(libjpeg_turbo, "simplejpeg", None)
        return images.decode(file, mode, max_pixels=PIXELS)


def outcome(file: bytes) -> np.ndarray | str:
    """The planes, or in which words they are refused."""
    try:
        return images.decode(file, "RGB", max_pixels=PIXELS)
    except InvalidRequest as refusal:
        return str(refusal)


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (33, 17), (7, 130), (200, 121)])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_the_pixels_are_pillows(
    size: tuple[int, int], subsampling: int, progressive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for quality in (5, 75, 95):
        file = encoded(a_picture(size, quality), quality=quality, subsampling=subsampling, progressive=progressive)
        scanned = images.scan(file, max_pixels=PIXELS)
        assert libjpeg_turbo.planes(file, scanned.header, "RGB", interleaved=False) is not None
        modes: tuple[ColorMode, ...] = ("RGB", "RGBA", "GRAY")
        for mode in modes:
            expected = by_pillow(file, mode, monkeypatch)
            planes = images.decode(file, mode, max_pixels=PIXELS)
            np.testing.assert_array_equal(planes, expected, strict=True)
            assert planes.flags.c_contiguous
        interleaved = images.decode_scanned(scanned, "RGB", max_pixels=PIXELS, interleaved=True)
        np.testing.assert_array_equal(interleaved, by_pillow(file, "RGB", monkeypatch), strict=True)
        assert np.moveaxis(interleaved, 0, -1).flags.c_contiguous


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "GRAY"])
def test_gray_files_are_read_too(mode: ColorMode, monkeypatch: pytest.MonkeyPatch) -> None:
    file = encoded(a_picture((45, 31), 1).convert("L"))
    assert libjpeg_turbo.planes(file, images.read_header(file, max_pixels=PIXELS), mode, interleaved=True) is not None
    planes = images.decode(file, mode, max_pixels=PIXELS)
    np.testing.assert_array_equal(planes, by_pillow(file, mode, monkeypatch), strict=True)


def test_what_is_not_plain_is_pillows(monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(a_picture((40, 30), 2), exif=exif)
    four = encoded(a_picture((40, 30), 3).convert("CMYK"))
    for file, shape in ((turned, (3, 40, 30)), (four, (3, 30, 40))):
        assert libjpeg_turbo.planes(file, images.read_header(file, max_pixels=PIXELS), "RGB", interleaved=True) is None
        planes = images.decode(file, "RGB", max_pixels=PIXELS)
        assert planes.shape == shape
        np.testing.assert_array_equal(planes, by_pillow(file, "RGB", monkeypatch), strict=True)


def test_damaged_files_are_read_and_refused_as_pillow_does(monkeypatch: pytest.MonkeyPatch) -> None:
    random = Random(4)
    whole = [encoded(a_picture((64, 48), seed), progressive=bool(seed % 2)) for seed in range(4)]
    read = refused = 0
    for _ in range(400):
        file = bytearray(random.choice(whole))
        for _ in range(random.choice((1, 1, 3))):
            at = random.randrange(len(file))
            if random.random() < 0.7:
                file[at] = random.randrange(256)
            else:
                del file[at : at + random.randrange(1, 40)]
        with monkeypatch.context() as without:
            without.setattr(libjpeg_turbo, "simplejpeg", None)
            expected = outcome(bytes(file))
        got = outcome(bytes(file))
        if isinstance(expected, str):
            refused += 1
            assert got == expected
        else:
            read += 1
            np.testing.assert_array_equal(got, expected, strict=True)
    assert read > 50
    assert refused > 50
