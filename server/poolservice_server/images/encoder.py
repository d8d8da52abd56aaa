"""Encode planes as a PNG file."""

from io import BytesIO
from typing import cast

import numpy as np
from PIL import Image, PngImagePlugin  # noqa: F401  importing the plugin registers PNG

from poolservice.errors import InvalidRequest

# The caller waits for the file, and pooled images compress badly at any level.
COMPRESS_LEVEL = 1


def encode_png(planes: np.ndarray) -> bytes:
    """Return a PNG file of `planes`.

    Args:
        planes: (C, H, W), where C is 1 (gray), 3 (RGB) or 4 (RGBA) and H and W are at least 1. uint8 is written
            unchanged. Floating-point values are clipped to [0, 1], scaled to 0..255 and rounded half to even; NaN
            becomes 0.

    Raises:
        InvalidRequest: `planes` has another shape or dtype. The error's `field` is output.format.
    """
    if planes.ndim != 3 or planes.shape[0] not in (1, 3, 4) or 0 in planes.shape:
        raise InvalidRequest(
            "a PNG needs the shape (C, H, W) with 1, 3 or 4 channels and at least one pixel; this result has the shape "
            f"{planes.shape}",
            field="output.format",
        )
    pixels = np.ascontiguousarray(_to_uint8(planes).transpose(1, 2, 0))
    image = Image.fromarray(pixels[:, :, 0] if planes.shape[0] == 1 else pixels)
    file = BytesIO()
    image.save(file, "PNG", compress_level=COMPRESS_LEVEL)
    return file.getvalue()


def _to_uint8(planes: np.ndarray) -> np.ndarray:
    if planes.dtype == np.uint8:
        return planes
    # numpy does not count bfloat16 as floating.
    if not (np.issubdtype(planes.dtype, np.floating) or planes.dtype.name == "bfloat16"):
        raise InvalidRequest(
            f"a PNG needs uint8, or floating-point values from 0 to 1; this result is {planes.dtype.name}",
            field="output.format",
        )
    # float16 and bfloat16 are too narrow to scale exactly.
    wide: np.ndarray = planes.astype(np.float64 if planes.dtype == np.float64 else np.float32)
    scaled = np.nan_to_num(wide, copy=False, nan=0.0, posinf=1.0, neginf=0.0).clip(0.0, 1.0, out=wide) * 255.0
    return cast(np.ndarray, np.rint(scaled, out=scaled).astype(np.uint8))
