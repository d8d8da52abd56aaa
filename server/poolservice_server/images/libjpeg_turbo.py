"""Decode common JPEG files with libjpeg-turbo directly, which takes three quarters of Pillow's time.

Pillow uses the same library and converts row by row. Uncommon and damaged files are left to Pillow, so that the pixels
and the errors are the same with and without this module.
"""

import numpy as np

from poolservice_server.images.scan_result import Header

try:
    import simplejpeg
except ImportError:  # simplejpeg has no wheels for some platforms.
    simplejpeg = None

# The color spaces that libjpeg-turbo converts to RGB exactly as Pillow does.
_COLOR_SPACES = ("YCbCr", "RGB")


def decode_jpeg(file: bytes, header: Header, mode: str, *, interleaved: bool) -> np.ndarray | None:
    """Decode a file to uint8 planes, (C, H, W), or return None if Pillow has to decode it.

    Args:
        file: the file, in any format.
        header: its header. Only upright images are decoded here.
        mode: RGB, RGBA or GRAY.
        interleaved: allow the planes of an RGB image to be interleaved in memory.
    """
    if simplejpeg is None or header.format != "JPEG" or header.orientation != 1:
        return None
    try:
        height, width, color_space, _ = simplejpeg.decode_jpeg_header(file)
        if (width, height) != (header.width, header.height):
            return None
        if color_space in _COLOR_SPACES and mode == "RGB" and interleaved:
            pixels: np.ndarray = simplejpeg.decode_jpeg(file)
            return np.moveaxis(pixels, -1, 0)
        if color_space in _COLOR_SPACES and mode != "GRAY":
            return _rgbx_to_planes(simplejpeg.decode_jpeg(file, "RGBX"), mode)
        if color_space == "Gray":
            gray = simplejpeg.decode_jpeg(file, "GRAY")[:, :, 0]
            return gray[None] if mode == "GRAY" else _add_alpha(np.stack((gray, gray, gray)), mode)
    except ValueError:
        # Damaged, or unsupported by simplejpeg. Pillow decodes some of these files and explains the other errors.
        return None
    return None


def _rgbx_to_planes(pixels: np.ndarray, mode: str) -> np.ndarray:
    """Convert (H, W, 4) pixels to planes. The fourth byte of a pixel is unused."""
    height, width, _ = pixels.shape
    data = pixels.reshape(-1)
    size = height * width
    planes = np.empty((3, size), np.uint8)
    for channel, plane in enumerate(planes):
        # The four bytes from this channel on are read as a little-endian integer. A cast to uint8 keeps its lowest
        # byte, which is the channel's, for many pixels per instruction. The last pixel has no four bytes left.
        shifted = np.ndarray((size - 1,), np.uint32, data.data, channel)
        np.copyto(plane[:-1], shifted, casting="unsafe")
        plane[-1] = data[4 * (size - 1) + channel]
    return _add_alpha(planes.reshape(3, height, width), mode)


def _add_alpha(planes: np.ndarray, mode: str) -> np.ndarray:
    """Add an opaque alpha plane if the mode is RGBA."""
    if mode != "RGBA":
        return planes
    return np.concatenate((planes, np.full_like(planes[:1], 255)))
