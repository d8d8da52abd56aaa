"""Pictures between Pillow's objects and files of the wire. Imported only where a picture is at hand."""

import io
from typing import cast

from PIL import Image, ImageOps, UnidentifiedImageError

from poolservice.errors import InvalidRequest
from poolservice_client.errors import ServerError

# What PNG stores as it is.
_STORED = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})
# What is brought to one of those, and how. Colour is kept; what PNG cannot say is said in RGB.
_CONVERTED = {
    "CMYK": "RGB",
    "YCbCr": "RGB",
    "HSV": "RGB",
    "RGBX": "RGB",
    "RGBa": "RGBA",
    "La": "LA",
    "PA": "RGBA",
}
# Sixteen bits in another byte order than PNG's writer knows; Pillow turns them only by way of I.
_OTHER_ORDERS = frozenset({"I;16B", "I;16L", "I;16N"})
# zlib's fastest: the network is seldom slower than a harder compression.
_COMPRESS_LEVEL = 1
# What BMP, too, stores without loss. A photograph of 512 x 600 takes 0.7 ms to write and 1.7 to read as BMP, 50 and
# 19 as PNG, for twice the bytes: the better bargain on any network but a slow one, until the bytes are many.
_PLAIN = frozenset({"L", "RGB"})
_MANY_BYTES = 16 * 2**20


def encode(image: Image.Image) -> bytes:
    """`image`'s current frame as a file without loss (BMP where that holds it, else PNG), upright.

    An EXIF orientation that the image still carries is applied, so that ``Image.open(path)`` is pooled like `path`.

    Raises:
        InvalidRequest: the image's mode has no picture that PNG could hold (F, LAB, I beyond 16 bits), or it is empty.
        OSError: the image's file cannot be read to its end.
    """
    if 0 in image.size:
        raise InvalidRequest(f"the picture is empty: {image.width} x {image.height}", field="x")
    upright = _storable(ImageOps.exif_transpose(image))
    file = io.BytesIO()
    if (
        upright.mode in _PLAIN
        and "transparency" not in upright.info
        and upright.width * upright.height * 3 < _MANY_BYTES
    ):
        upright.save(file, format="BMP")
    else:
        # The colour profile is not used by the service, so it need not travel.
        upright.save(file, format="PNG", compress_level=_COMPRESS_LEVEL, icc_profile=None)
    return file.getvalue()


def decode(data: bytes | bytearray | memoryview) -> Image.Image:
    """The picture in a reply.

    Raises:
        ServerError: it is no PNG.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=("PNG",))
        image.load()
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ServerError(f"the server answered with a picture that cannot be read: {error}") from None
    return image


def _storable(image: Image.Image) -> Image.Image:
    if image.mode in _STORED:
        return image
    if image.mode in _CONVERTED:
        return image.convert(_CONVERTED[image.mode])
    if image.mode in _OTHER_ORDERS:
        return image.convert("I").convert("I;16")
    if image.mode == "I":
        low, high = cast(tuple[int, int], image.getextrema())
        if low >= 0 and high <= 65535:
            return image.convert("I;16")
        raise InvalidRequest(
            f"a picture of mode I is sent as 16-bit grey, 0 to 65535; this one has {low} to {high}: send "
            "numpy.asarray(image)[None] as a tensor",
            field="x",
        )
    raise InvalidRequest(
        f"a PIL image of mode {image.mode} has no lossless PNG; convert it, or send numpy.asarray(image) as a tensor "
        "(channels first)",
        field="x",
    )
