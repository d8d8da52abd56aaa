"""From an encoded picture to planes."""

from collections.abc import Mapping
from io import BytesIO
from types import MappingProxyType
from typing import Literal

import numpy as np

# Importing a plugin registers its format. Pillow would otherwise import every plugin that it has, and in the middle of
# the first request.
from PIL import (  # noqa: F401
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from poolservice_server.images import libjpeg_turbo
from poolservice_server.images.formats import scan
from poolservice_server.images.scan import Buffer, Header, Scan, refusal

ColorMode = Literal["RGB", "GRAY", "RGBA"]

_PILLOW_MODES: Mapping[str, str] = MappingProxyType({"RGB": "RGB", "GRAY": "L", "RGBA": "RGBA"})

_TURNS: Mapping[int, Image.Transpose] = MappingProxyType(
    {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
)


def decode(data: Buffer, mode: ColorMode, *, max_pixels: int) -> np.ndarray:
    """`decode_scanned` of a file that was not walked yet.

    Args:
        data: the encoded file, one of FORMATS.
        mode: the channels to read it as.
        max_pixels: the most pixels, width times height, that its header may claim.
    """
    return decode_scanned(scan(data, max_pixels=max_pixels), mode, max_pixels=max_pixels)


def decode_scanned(scanned: Scan, mode: ColorMode, *, max_pixels: int, interleaved: bool = False) -> np.ndarray:
    """The first frame of an encoded picture, upright.

    May be called from several threads at a time; they run side by side while they decode.

    Args:
        scanned: the file, walked by `scan`; its parts are used up.
        mode: the channels to read it as.
        max_pixels: what it was scanned with.
        interleaved: whether the planes may lie interleaved, (H, W, C) in memory, which saves a pass over the pixels.

    Returns:
        uint8 planes, (C, H, W), in memory too unless `interleaved`, so that pooling reads each channel in one run.

    Raises:
        InvalidRequest: the file is not read, too large, damaged or incomplete. There are no partial pictures.
    """
    header = scanned.header
    file = b"".join(scanned.parts)
    planes = libjpeg_turbo.planes(file, header, mode, interleaved=interleaved)
    if planes is not None:
        return planes
    picture = _load(file, header, max_pixels)
    if header.orientation in _TURNS:
        picture = picture.transpose(_TURNS[header.orientation])
    return _planes(_convert(picture, header, _PILLOW_MODES[mode]))


def _load(file: bytes, header: Header, max_pixels: int) -> Image.Image:
    # Pillow's own limit is one for the whole process. It is only ever raised, and only when the operator allows more;
    # the limit that counts was compared with the header already.
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels
    try:
        picture = Image.open(BytesIO(file), formats=(header.format,))
        if picture.size == (header.width, header.height):
            # In one piece: fed by blocks, Pillow copies all that a decoder left over for each further block, and a JPEG
            # of 64 MB with one endless marker took it two minutes.
            picture.decodermaxblock = max(len(file), picture.decodermaxblock)
            picture.load()
    except MemoryError:
        raise
    except UnidentifiedImageError:
        raise refusal(
            f"the {header.format} file is damaged, or stores its pixels in a way that is not read; "
            "save the picture again, as PNG for example"
        ) from None
    except Exception as error:  # noqa: BLE001  Pillow raises whatever its parsers stumble into
        raise refusal(
            f"the {header.format} file cannot be decoded ({error}); send a complete, undamaged file"
        ) from None
    if picture.size != (header.width, header.height):
        raise refusal(
            f"the {header.format} file's header says {header.width} x {header.height} pixels and its picture is "
            f"{picture.width} x {picture.height}; send an undamaged file"
        )
    return picture


def _convert(picture: Image.Image, header: Header, mode: str) -> Image.Image:
    if picture.mode.startswith("I;16") or (picture.mode == "I" and header.format == "PNG"):
        picture = _high_byte(picture, mode)
    if picture.mode in ("I", "F"):
        raise refusal(
            f"the {header.format} file stores floating-point, signed or 32-bit numbers, whose black and white it does "
            "not say; send them as a tensor"
        )
    if mode != "RGBA":
        # Without it Pillow has nothing to warn of: the transparency is dropped on purpose.
        picture.info.pop("transparency", None)
    if picture.mode == "La":
        picture = picture.convert("LA")
    if picture.mode == "LAB":
        picture = picture.convert("RGB")
    return picture if picture.mode == mode else picture.convert(mode)


def _high_byte(picture: Image.Image, mode: str) -> Image.Image:
    """16 bits a sample as 8: Pillow would clip all but the darkest 256 of 65536 values to white."""
    values = np.asarray(picture)
    gray = Image.fromarray((values >> 8).astype(np.uint8))
    key = picture.info.get("transparency")
    if mode != "RGBA" or not isinstance(key, int):
        return gray
    gray.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
    return gray


def _planes(picture: Image.Image) -> np.ndarray:
    # Pillow packs one band faster than it packs all of them, and planes pool many times faster than interleaved bytes.
    bands = picture.getbands()
    planes = b"".join(picture.tobytes("raw", band) for band in bands)
    return np.frombuffer(planes, np.uint8).reshape(len(bands), picture.height, picture.width)
