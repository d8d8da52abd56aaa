"""Each known mistake of preprocessing changes the sample by more than the other tests tolerate, which is nothing.

The amounts are mean absolute differences in gray levels of a photograph, or of normalized values.
"""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from tests.backbones.preprocessing.image_files import image, save, turned

from poolservice_server.backbones.manifest import Input, Preprocessing
from poolservice_server.backbones.preprocessing import normalized, to_samples
from poolservice_server.images import decode

INPUT = Input(height=224, width=224)
RIGHT: dict[str, Any] = {"size": 256, "filter": "bicubic"}


def sample(file: bytes, preprocessing: dict[str, Any], **backbone_input: Any) -> np.ndarray:
    return to_samples(
        decode(file, "RGB", max_pixels=2**20),
        Input(height=224, width=224, **backbone_input),
        Preprocessing(**preprocessing),
    ).astype(float)


@pytest.fixture(scope="module")
def file(photograph: Path) -> bytes:
    """A photograph of 512 x 600 pixels, cut to 512 x 386."""
    return save(Image.open(photograph).crop((0, 0, 512, 386)))


@pytest.mark.parametrize(
    ("mistake", "least"),
    [
        ({"resize": "squash", "size": (256, 256)}, 15),
        ({"size": 255}, 1.5),
        ({"rounding": "round"}, 0.3),
        ({"size": 224}, 5),
        ({"filter": "bilinear"}, 0.5),
        ({"filter": "lanczos"}, 0.3),
        ({"antialias": False}, 1),
    ],
    ids=lambda value: str(value),
)
def test_another_geometry_or_filter_changes_the_pixels(file: bytes, mistake: dict[str, Any], least: float) -> None:
    assert np.abs(sample(file, RIGHT) - sample(file, {**RIGHT, **mistake})).mean() > least


def test_another_rounding_of_the_crop_changes_the_pixels(file: bytes) -> None:
    # The margin is 17.5 rows: torchvision rounds it to 18, Hugging Face to 17.
    right = {**RIGHT, "size": 259}
    assert np.abs(sample(file, right) - sample(file, {**right, "crop_rounding": "floor"})).mean() > 1


def test_a_side_that_is_rounded_instead_of_floored_changes_the_pixels(file: bytes) -> None:
    # timm floors 224 / 0.9 = 248.9.
    assert np.abs(sample(file, {"size": 248}) - sample(file, {"size": 249})).mean() > 0.5


def test_the_other_order_of_channels_changes_the_pixels(file: bytes) -> None:
    right, wrong = sample(file, RIGHT), sample(file, RIGHT, channel_order="BGR")
    assert np.array_equal(right[:, ::-1], wrong)
    assert np.abs(right - wrong).mean() > 5


def test_an_ignored_orientation_changes_the_pixels() -> None:
    upright = ImageOps.exif_transpose(Image.open(BytesIO(turned(6, 300, 200))))
    assert np.array_equal(sample(turned(6, 300, 200), RIGHT), sample(save(upright), RIGHT))
    assert np.abs(sample(turned(6, 300, 200), RIGHT) - sample(save(image("RGB", 300, 200)), RIGHT)).mean() > 20


def test_a_palette_that_is_resized_before_it_is_converted_changes_the_pixels() -> None:
    # Pillow resizes a palette by its nearest pixels.
    indexed = image("P", 300, 300)
    wrong = save(indexed.resize((256, 256), Image.Resampling.BICUBIC).convert("RGB"))
    assert np.abs(sample(save(indexed), RIGHT) - sample(wrong, RIGHT)).mean() > 5


def test_transparency_that_is_painted_on_black_changes_the_pixels() -> None:
    transparent = image("RGBA", 300, 300)
    black = Image.new("RGBA", transparent.size, "black")
    black.alpha_composite(transparent)
    assert np.array_equal(sample(save(transparent), RIGHT), sample(save(transparent.convert("RGB")), RIGHT))
    assert np.abs(sample(save(transparent), RIGHT) - sample(save(black.convert("RGB")), RIGHT)).mean() > 20


def test_16_bits_that_are_clipped_change_the_pixels() -> None:
    deep = image("I;16", 300, 300)
    clipped = Image.fromarray(np.minimum(np.asarray(deep), 255).astype(np.uint8))
    high = Image.fromarray((np.asarray(deep) >> 8).astype(np.uint8))
    assert np.array_equal(sample(save(deep), RIGHT), sample(save(high), RIGHT))
    assert np.abs(sample(save(deep), RIGHT) - sample(save(clipped), RIGHT)).mean() > 50


def test_inverted_cmyk_changes_the_pixels() -> None:
    ink = image("CMYK", 300, 300)
    right = sample(save(ink, "TIFF"), RIGHT)
    assert np.array_equal(right, sample(save(ink.convert("RGB")), RIGHT))
    inverted = Image.fromarray(255 - np.asarray(ink), "CMYK")
    assert np.abs(right - sample(save(inverted, "TIFF"), RIGHT)).mean() > 20


def test_a_gray_image_has_three_equal_channels() -> None:
    samples = sample(save(image("L", 300, 200)), RIGHT)
    assert (samples == samples[:, :1]).all()


@pytest.mark.parametrize(
    "mistake",
    [
        {"scale": 1.0},  # Mean and std of scaled values, applied to bytes.
        {"mean": (0.5,), "std": (0.5,)},  # Those of another model.
        {"mean": (0.0,), "std": (1.0,)},  # None.
    ],
    ids=["before scaling", "of another model", "none"],
)
def test_another_normalization_changes_the_values(file: bytes, mistake: dict[str, Any]) -> None:
    samples = to_samples(decode(file, "RGB", max_pixels=2**20), INPUT, Preprocessing(**RIGHT))
    right = {**RIGHT, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    values = normalized(samples, Preprocessing(**right))
    assert np.abs(values - normalized(samples, Preprocessing(**{**right, **mistake}))).mean() > 0.1
