"""From planes to a PNG file."""

from io import BytesIO
from typing import cast

import numpy as np
from PIL import Image, PngImagePlugin  # noqa: F401  importing the plugin registers PNG

from poolservice.errors import InvalidRequest

# A user waits for the file, and pictures that were pooled compress badly anyway.
COMPRESS_LEVEL = 1


def encode_png(planes: np.ndarray) -> bytes:
    """A PNG file of `planes`.

    Args:
        planes: (C, H, W), C being 1 (gray), 3 (RGB) or 4 (RGBA), H and W at least 1. uint8 is written as it is;
            floats are read as [0, 1], clipped, scaled to 0..255 and rounded half to even, and NaN becomes 0.

    Raises:
        InvalidRequest: the shape or the type is another.
    """
    if planes.ndim != 3 or planes.shape[0] not in (1, 3, 4) or 0 in planes.shape:
        raise InvalidRequest(
            f"a PNG is made of 1, 3 or 4 channels of height and width, (C, H, W), none of them empty; this result has "
            f"the shape {planes.shape}",
            field="output.format",
        )
    pixels = np.ascontiguousarray(_bytes(planes).transpose(1, 2, 0))
    picture = Image.fromarray(pixels[:, :, 0] if planes.shape[0] == 1 else pixels)
    file = BytesIO()
    picture.save(file, "PNG", compress_level=COMPRESS_LEVEL)
    return file.getvalue()


def _bytes(planes: np.ndarray) -> np.ndarray:
    if planes.dtype == np.uint8:
        return planes
    # bfloat16 is no np.floating, and half the others are too narrow to scale exactly.
    if not (np.issubdtype(planes.dtype, np.floating) or planes.dtype.name == "bfloat16"):
        raise InvalidRequest(
            f"a PNG is made of uint8 or of floating-point numbers from 0 to 1; this result is {planes.dtype.name}",
            field="output.format",
        )
    wide: np.ndarray = planes.astype(np.float64 if planes.dtype == np.float64 else np.float32)
    scaled = np.nan_to_num(wide, copy=False, nan=0.0, posinf=1.0, neginf=0.0).clip(0.0, 1.0, out=wide) * 255.0
    return cast(np.ndarray, np.rint(scaled, out=scaled).astype(np.uint8))
