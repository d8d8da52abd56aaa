"""The cost of decoding an image, estimated from its scan before any pixel is decoded."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from poolservice_server.images.color_mode import CHANNELS, ColorMode
from poolservice_server.images.scan_result import Scan


class _Method(NamedTuple):
    """The cost of one way to compress pixels.

    Attributes:
        per_sample_byte: steps per decompressed byte.
        per_coded_byte: steps per compressed byte.
        intermediates: bytes that the decoder needs in addition to the file and the image, per decompressed byte.
        per_pass: steps per decompressed byte and pass, even for a pass with hardly any data.
    """

    per_sample_byte: float
    per_coded_byte: float
    intermediates: float
    per_pass: float = 0.0


#: The methods that a `Coding` can name.
METHODS: Mapping[str, _Method] = MappingProxyType(
    {
        "jpeg": _Method(1.0, 8.0, 0.0),
        "jpeg_scans": _Method(1.5, 30.0, 2.0, 0.4),
        "jpeg_arithmetic": _Method(2.0, 60.0, 2.0, 1.0),
        "png": _Method(3.0, 2.5, 0.0),
        "png_interlaced": _Method(5.0, 2.5, 0.0),
        "gif": _Method(4.0, 4.0, 0.0),
        "webp": _Method(2.6, 35.0, 3.5),
        "webp_lossless": _Method(3.0, 7.0, 4.5),
        "raw": _Method(0.7, 0.2, 0.0),
        "bmp_run_length": _Method(60.0, 200.0, 2.0),
        "tiff_fax": _Method(8.0, 20.0, 1.0),
        "tiff_lzw": _Method(1.0, 2.5, 1.0),
        "tiff_jpeg": _Method(1.5, 8.0, 1.0),
        "tiff_deflate": _Method(2.0, 2.0, 1.0),
        "tiff_packbits": _Method(0.5, 0.5, 1.0),
        "tiff_zstd": _Method(0.8, 1.0, 1.0),
        "tiff_webp": _Method(3.5, 20.0, 2.0),
    }
)

# The cost of reading the header, of creating Pillow's image, and of each result.
_STEPS_PER_FILE = 60_000.0
# Exporting Pillow's image as planes, and converting it to another mode, per pixel.
_STEPS_PER_PIXEL = 7.0
# Decoding and exporting a row of Pillow's image, whatever its length.
_STEPS_PER_ROW = 25.0
# Converting libjpeg-turbo's pixels to planes, per pixel.
_TURBO_STEPS_PER_PIXEL = 1.0
# The peak bytes of decoding with libjpeg-turbo, per pixel: gray samples or colors of four bytes, and the planes. RGBA
# also takes a plane of alpha and a copy of all planes.
_TURBO_GRAY_BYTES: Mapping[str, int] = MappingProxyType({"GRAY": 1, "RGB": 1 + 3, "RGBA": 1 + 3 + 1 + 4})
_TURBO_COLOR_BYTES: Mapping[str, int] = MappingProxyType({"RGB": 4 + 3, "RGBA": 4 + 3 + 1 + 4})


def decode_cost(scanned: Scan, mode: ColorMode) -> tuple[float, int]:
    """Return the steps and the peak bytes of decoding an image.

    Args:
        scanned: the result of `scan`.
        mode: the channels to decode to.

    Returns:
        The steps, each a nanosecond of one core of the reference machine, and the largest number of bytes in use at a
        time, including the decoded planes and a copy of the file.
    """
    header, coding = scanned.header, scanned.coding
    method = METHODS[coding.method]
    pixels = header.width * header.height
    channels = CHANNELS[mode]
    steps = (
        _STEPS_PER_FILE
        + (method.per_sample_byte + method.per_pass * coding.passes) * coding.sample_bytes
        + method.per_coded_byte * coding.nbytes
    )
    decoding = int(method.intermediates * coding.sample_bytes) + 2 * coding.nbytes
    if (
        header.format == "JPEG"
        and header.orientation == 1
        and (coding.channels == 1 or (coding.channels == 3 and mode != "GRAY"))
    ):
        per_pixel = (_TURBO_GRAY_BYTES if coding.channels == 1 else _TURBO_COLOR_BYTES)[mode]
        return steps + _TURBO_STEPS_PER_PIXEL * pixels, decoding + pixels * per_pixel
    steps += _STEPS_PER_ROW * header.height
    height, width = header.upright
    turned = header.orientation != 1
    if header.bits > 8:
        # Pillow's image, a copy as uint16, and the planes.
        loaded = _pillow_bytes(header.width, header.height, 2)
        upright = _pillow_bytes(width, height, 2) if turned else 0
        return (
            steps + _STEPS_PER_PIXEL * pixels,
            max(decoding + loaded, coding.nbytes + loaded + upright + pixels * (2 + 2 * channels)),
        )
    # Pillow keeps the image as stored until it has been converted. Its pixels take one byte or four.
    stored = 4 if coding.channels > 1 else 1
    loaded = _pillow_bytes(header.width, header.height, stored)
    upright = _pillow_bytes(width, height, stored)
    converted = 0 if coding.channels == channels else _pillow_bytes(width, height, 4 if channels >= 3 else 1)
    exporting = coding.nbytes + upright + converted + pixels * 2 * channels
    return (
        steps + _STEPS_PER_PIXEL * pixels * (2 if turned else 1),
        max(decoding + loaded, coding.nbytes + loaded + upright * turned, exporting),
    )


def _pillow_bytes(width: int, height: int, pixel_bytes: int) -> int:
    """Return the bytes of an image of Pillow, which has a pointer to each row and rows of whole 32-bit words."""
    return height * (8 + -(-width * pixel_bytes // 4) * 4)
