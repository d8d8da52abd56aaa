"""Decode image files to planes."""

from collections.abc import Mapping
from io import BytesIO
from types import MappingProxyType
from typing import Protocol

import numpy as np

# Importing a plugin registers its format. Otherwise Pillow would import all of its plugins during the first request.
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

from poolservice_server.foreign_text import quote
from poolservice_server.images import libjpeg_turbo, libtiff, png_rows
from poolservice_server.images.color_mode import ColorMode
from poolservice_server.images.decode_cost import decode_cost
from poolservice_server.images.formats import scan
from poolservice_server.images.scan_result import Buffer, Header, Scan, invalid_image
from poolservice_server.images.stoppable_file import StoppableFile
from poolservice_server.stop import Stop, WorkStopped, never

#: Steps between two calls of `stop`.
PIECE_STEPS = 20e6

# The limit for the bytes that Pillow may copy when it decodes a file in pieces.
MAX_COPIED_BYTES = 512 * 2**20

_SMALLEST_PIECE = 64

# A file whose compressed and decompressed pixels together take fewer bytes is decoded in one piece.
_SMALL_BYTES = 100_000
# Up to this size, the fixed cost of exporting a band exceeds the cost per pixel.
_SMALL_PIXELS = 16_384

_PILLOW_MODES: Mapping[str, str] = MappingProxyType({"RGB": "RGB", "GRAY": "L", "RGBA": "RGBA"})

_TRANSPOSES: Mapping[int, Image.Transpose] = MappingProxyType(
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


libtiff.silence()


class Decode(Protocol):
    """A function that decodes a scanned image, such as `decode_scanned`."""

    def __call__(
        self, scanned: Scan, mode: ColorMode, *, max_pixels: int, interleaved: bool = False, stop: Stop = never
    ) -> np.ndarray:
        """Return the planes of the image."""
        ...


class DecoderEnded(Exception):
    """The process that decoded an image was ended from outside, or the server stops. The image may be sent again."""


def decode(data: Buffer, mode: ColorMode, *, max_pixels: int) -> np.ndarray:
    """Scan and decode a file; see `decode_scanned`.

    Args:
        data: the encoded file, in one of the FORMATS.
        mode: the channels to decode to.
        max_pixels: the limit for width times height as the file declares them.
    """
    return decode_scanned(scan(data, max_pixels=max_pixels), mode, max_pixels=max_pixels)


def decode_scanned(
    scanned: Scan, mode: ColorMode, *, max_pixels: int, interleaved: bool = False, stop: Stop = never
) -> np.ndarray:
    """Decode the first frame of an image, upright.

    Thread-safe: several threads can decode in parallel. Decoding that takes long runs in pieces of about
    PIECE_STEPS, between which `stop` is called. WebP, and TIFF with compression, have no pieces, because their
    libraries decode an image in one call.

    Args:
        scanned: the result of `scan`. Its parts are consumed.
        mode: the channels to decode to.
        max_pixels: the limit that the file was scanned with.
        interleaved: allow the planes to be interleaved, (H, W, C) in memory, which saves a pass over the pixels.
        stop: returns True if nobody waits for the image any more.

    Returns:
        Planes, (C, H, W), of the header's dtype: uint8, or uint16 for grayscale of 12 or 16 bits. Unless `interleaved`,
        the array is C-contiguous, so that pooling reads each channel sequentially.

    Raises:
        InvalidRequest: the file is unsupported, too large, damaged or incomplete. A partial image is never returned.
            The error's `field` is image.data.
        WorkStopped: `stop` returned True.
    """
    if stop():
        raise WorkStopped
    header = scanned.header
    file = b"".join(scanned.parts)
    steps = 0.0
    if scanned.coding.nbytes + scanned.coding.sample_bytes > _SMALL_BYTES:
        steps, _ = decode_cost(scanned, mode)
    in_pieces = steps > 2 * PIECE_STEPS
    # A single pass over the pixels is short at any size. Several passes are decoded in pieces, by Pillow.
    if not in_pieces or scanned.coding.passes == 1:
        planes = libjpeg_turbo.decode_jpeg(file, header, mode, interleaved=interleaved)
        if planes is not None:
            return planes
    if in_pieces:
        block = _block_nbytes(scanned.coding.nbytes, steps)
        image = _load(StoppableFile(file, stop, scanned.boundaries), block, header, max_pixels)
        if stop():
            raise WorkStopped
    else:
        image = _load(BytesIO(file), len(file), header, max_pixels)
    if header.format == "PNG" and png_rows.may_be_missing(image):
        png_rows.check(file, scanned.coding.sample_bytes, stop)
    if header.orientation in _TRANSPOSES:
        image = image.transpose(_TRANSPOSES[header.orientation])
    if header.bits > 8:
        return _to_deep_planes(image, header.bits, mode)
    return _to_planes(_convert(image, header, _PILLOW_MODES[mode]))


def _block_nbytes(nbytes: int, steps: float) -> int:
    """Return the size of the pieces in which to decode `nbytes`."""
    # Pillow copies the remaining bytes after each piece, if the decoder has not consumed them.
    pieces = min(int(steps / PIECE_STEPS), max(8, MAX_COPIED_BYTES // nbytes))
    block = max(nbytes // pieces, 2 * _SMALLEST_PIECE)
    # The decoder must see the checksum at the end of a compressed stream together with the last pixels.
    while block < nbytes and 0 < nbytes % block < _SMALLEST_PIECE:
        block += 1
    return block


def _load(file: BytesIO, block: int, header: Header, max_pixels: int) -> Image.Image:
    # Pillow has one limit for the whole process. It is raised if the server's own limit is higher. The server's limit
    # was checked against the header before.
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels
    try:
        image = Image.open(file, formats=(header.format,))
        if image.size == (header.width, header.height):
            # With Pillow's small default, decoding a JPEG of 64 MB with a single endless marker took two minutes.
            image.decodermaxblock = block
            if header.format == "PNG":
                png_rows.mark_last(image)
            image.load()
    except (MemoryError, WorkStopped):
        raise
    except UnidentifiedImageError:
        raise invalid_image(
            f"the {header.format} file is damaged, or stores its pixels in an unsupported way; "
            "save the image again, for example as PNG"
        ) from None
    except Exception as error:  # noqa: BLE001  Pillow raises any type of exception for damaged files
        raise invalid_image(
            f"the {header.format} file cannot be decoded ({quote(str(error))}); send a complete, undamaged file"
        ) from None
    if image.size != (header.width, header.height):
        raise invalid_image(
            f"the {header.format} file's header declares {header.width} x {header.height} pixels, and its image has "
            f"{image.width} x {image.height}; send an undamaged file"
        )
    return image


def _convert(image: Image.Image, header: Header, mode: str) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        raise invalid_image(
            f"the {header.format} file stores floating-point, signed or 32-bit numbers and does not define which "
            "values are black and white; send them as a tensor"
        )
    if mode != "RGBA":
        # Transparency is dropped on purpose. Removing it here avoids Pillow's warning.
        image.info.pop("transparency", None)
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode == "LAB":
        image = image.convert("RGB")
    return image if image.mode == mode else image.convert(mode)


def _to_deep_planes(image: Image.Image, bits: int, mode: ColorMode) -> np.ndarray:
    """Return the samples of a grayscale image as uint16 planes. Pillow would clip all values above 255 to white."""
    gray: np.ndarray = np.asarray(image).astype(np.uint16)
    transparent_value = image.info.get("transparency")
    is_transparent = gray == transparent_value if isinstance(transparent_value, int) else None
    if bits == 12:
        # So that the largest value stays white.
        gray = gray << 4 | gray >> 8
    if mode == "GRAY":
        return gray[None]
    planes = np.empty((4 if mode == "RGBA" else 3, *gray.shape), np.uint16)
    planes[:3] = gray
    if mode == "RGBA":
        planes[3] = 65535
        if is_transparent is not None:
            planes[3][is_transparent] = 0
    return planes


def _to_planes(image: Image.Image) -> np.ndarray:
    if image.mode != "L" and image.width * image.height <= _SMALL_PIXELS:
        # One export of the rows of all bands, and a copy, is faster than an export per band.
        rows = np.frombuffer(image.tobytes("raw", f"{image.mode};L"), np.uint8)
        return np.ascontiguousarray(rows.reshape(image.height, -1, image.width).transpose(1, 0, 2))
    # Exporting bands one by one is faster than exporting them interleaved, and planes pool many times faster than
    # interleaved bytes.
    bands = image.getbands()
    planes = b"".join(image.tobytes("raw", band) for band in bands)
    return np.frombuffer(planes, np.uint8).reshape(len(bands), image.height, image.width)
