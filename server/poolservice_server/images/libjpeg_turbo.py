"""The pixels of plain JPEG files by libjpeg-turbo itself, which takes three quarters of the time that it takes Pillow.

Pillow decodes with the same library and unpacks row by row. Whatever is not plain or not whole is left to it, so that
the pixels, and what is refused, are the same with and without.
"""

import numpy as np

from poolservice_server.images.scan import Header

try:
    import simplejpeg
except ImportError:  # It has no wheels for some machines.
    simplejpeg = None

# Colours that it converts to RGB as Pillow does.
_COLOURED = ("YCbCr", "RGB")


def planes(file: bytes, header: Header, mode: str, *, interleaved: bool) -> np.ndarray | None:
    """The picture's planes, (C, H, W) of uint8, as stored, not turned; None where Pillow should look at it.

    Args:
        file: the file, of a JPEG or not.
        header: what was read of it.
        mode: RGB, RGBA or GRAY.
        interleaved: whether the planes of an RGB picture may lie interleaved.
    """
    if simplejpeg is None or header.format != "JPEG" or header.orientation != 1:
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(file)
        if (width, height) != (header.width, header.height):
            return None
        if colours in _COLOURED and mode == "RGB" and interleaved:
            pixels: np.ndarray = simplejpeg.decode_jpeg(file)
            return np.moveaxis(pixels, -1, 0)
        if colours in _COLOURED and mode != "GRAY":
            return _coloured(simplejpeg.decode_jpeg(file, "RGBX"), mode)
        if colours == "Gray":
            gray = simplejpeg.decode_jpeg(file, "GRAY")[:, :, 0]
            return gray[None] if mode == "GRAY" else _opaque(np.stack((gray, gray, gray)), mode)
    except ValueError:
        # Damaged, or unlike what this library reads: Pillow reads some of it, and says what is wrong with the rest.
        return None
    return None


def _coloured(pixels: np.ndarray, mode: str) -> np.ndarray:
    """Planes of (H, W, 4) pixels, whose last byte is none."""
    height, width, _ = pixels.shape
    data = pixels.reshape(-1)
    size = height * width
    planes = np.empty((3, size), np.uint8)
    for channel, plane in enumerate(planes):
        # Of each pixel from this byte on, read as one little-endian integer, a narrowing cast keeps the byte: one
        # instruction for many. The last pixel reaches beyond the end.
        shifted = np.ndarray((size - 1,), np.uint32, data.data, channel)
        np.copyto(plane[:-1], shifted, casting="unsafe")
        plane[-1] = data[4 * (size - 1) + channel]
    return _opaque(planes.reshape(3, height, width), mode)


def _opaque(planes: np.ndarray, mode: str) -> np.ndarray:
    if mode != "RGBA":
        return planes
    return np.concatenate((planes, np.full_like(planes[:1], 255)))
