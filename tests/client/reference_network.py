"""The images that tests send to the backbone `mobilenetv2`, and the outputs of the same network in numpy."""

import io
from typing import Any

import numpy as np
from PIL import Image
from tests.backbones.models import TinyBackbone

NAME = "mobilenetv2"


def assert_close(actual: Any, expected: Any) -> None:
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def pixels(seed: int, size: int = 36) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)


def png(seed: int) -> bytes:
    """Return an image that is cropped by two pixels on each side, and not resized."""
    file = io.BytesIO()
    Image.fromarray(pixels(seed)).save(file, format="PNG")
    return file.getvalue()


def sample(backbone: TinyBackbone, seed: int) -> np.ndarray:
    """Return the preprocessed image, (3, 32, 32)."""
    normalized: np.ndarray = backbone.normalized(pixels(seed)[2:34, 2:34].transpose(2, 0, 1)[None])[0]
    return normalized


def outputs(backbone: TinyBackbone, seed: int) -> dict[str, np.ndarray]:
    return {name: array[0] for name, array in backbone.numpy_reference(sample(backbone, seed)[None]).items()}
