"""Encoding PIL images losslessly for a request, and the size of an encoded image.

Imported only when the caller passes a PIL image or asks for an explanation.
"""

import io
import warnings
from typing import cast

from PIL import ExifTags, Image, ImageOps

from poolservice.codec import Buffer
from poolservice.errors import InvalidRequest

# PNG stores these modes directly.
_PNG_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})
# Other modes are converted to one that PNG stores, without losing color.
_CONVERTED_MODES = {
    "CMYK": "RGB",
    "YCbCr": "RGB",
    "HSV": "RGB",
    "RGBX": "RGB",
    "RGBa": "RGBA",
    "La": "LA",
    "PA": "RGBA",
}
# Pillow's PNG writer does not know these byte orders of 16-bit images; Pillow converts them through mode I only.
_OTHER_16_BIT_MODES = frozenset({"I;16B", "I;16L", "I;16N"})
# zlib's fastest level: on most networks, a stronger compression costs more time than it saves.
_COMPRESS_LEVEL = 1
# BMP stores these modes losslessly, too. A photograph of 512 x 600 takes 0.7 ms to write and 1.7 ms to read as BMP, 50
# and 19 ms as PNG, for twice the bytes. BMP is faster on any network but a slow one, until the image is large.
_BMP_MODES = frozenset({"L", "RGB"})
_MAX_BMP_BYTES = 16 * 2**20
# The EXIF orientations that exchange width and height.
_TURNED = (5, 6, 7, 8)


def encode(image: Image.Image) -> bytes:
    """Return the current frame of `image` as a lossless, upright file: BMP if that stores its mode, else PNG.

    An EXIF orientation of the image is applied, so that `Image.open(path)` gives the same result as `path`.

    Raises:
        InvalidRequest: PNG cannot store the image's mode (F, LAB, or I beyond 16 bits), or the image is empty.
        OSError: the image's file is truncated.
    """
    if 0 in image.size:
        raise InvalidRequest(f"the image is empty: {image.width} x {image.height}", field="x")
    upright = _to_png_mode(ImageOps.exif_transpose(image))
    file = io.BytesIO()
    if (
        upright.mode in _BMP_MODES
        and "transparency" not in upright.info
        and upright.width * upright.height * 3 < _MAX_BMP_BYTES
    ):
        upright.save(file, format="BMP")
    else:
        # The service ignores color profiles, so they are not sent.
        upright.save(file, format="PNG", compress_level=_COMPRESS_LEVEL, icc_profile=None)
    return file.getvalue()


def upright_size(data: Buffer) -> tuple[int, int]:
    """Return (height, width) of an encoded image, after its EXIF orientation was applied.

    Raises:
        InvalidRequest: Pillow cannot read it.
    """
    try:
        with warnings.catch_warnings():
            # The server has accepted the number of pixels.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
        with image:
            turned = image.getexif().get(ExifTags.Base.Orientation) in _TURNED
            return (image.width, image.height) if turned else (image.height, image.width)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InvalidRequest(
            f"the server reads this image, but Pillow here cannot read its size: {error}", field="x"
        ) from error


def _to_png_mode(image: Image.Image) -> Image.Image:
    if image.mode in _PNG_MODES:
        return image
    if image.mode in _CONVERTED_MODES:
        return image.convert(_CONVERTED_MODES[image.mode])
    if image.mode in _OTHER_16_BIT_MODES:
        return image.convert("I").convert("I;16")
    if image.mode == "I":
        low, high = cast(tuple[int, int], image.getextrema())
        if low >= 0 and high <= 65535:
            return image.convert("I;16")
        raise InvalidRequest(
            f"a PIL image of mode I is sent as 16-bit gray, 0 to 65535; this one has {low} to {high}: send "
            "numpy.asarray(image)[None] as a tensor",
            field="x",
        )
    raise InvalidRequest(
        f"a PIL image of mode {image.mode} has no lossless PNG; convert it, or send numpy.asarray(image) as a tensor "
        "(channels first)",
        field="x",
    )
