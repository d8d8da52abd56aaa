"""Detect the format of an image file and call the scanner of that format."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from poolservice_server.images import bmp, gif, jpeg, other_formats, png, tiff, webp
from poolservice_server.images.scan_result import Buffer, Header, ImageTooLarge, Scan, invalid_image

_SCANNERS: Mapping[str, Callable[[memoryview], Scan]] = MappingProxyType(
    {"JPEG": jpeg.scan, "PNG": png.scan, "WEBP": webp.scan, "BMP": bmp.scan, "TIFF": tiff.scan, "GIF": gif.scan}
)

#: The supported input formats, by Pillow's names.
FORMATS: tuple[str, ...] = tuple(_SCANNERS)

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (jpeg.MAGIC, "JPEG"),
    (png.MAGIC, "PNG"),
    (b"RIFF", "WEBP"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
)


def read_header(data: Buffer, *, max_pixels: int) -> Header:
    """Read the header of an encoded image. This takes microseconds and decodes no pixels.

    Args:
        data: the encoded file.
        max_pixels: the limit for width times height.

    Raises:
        InvalidRequest: the file is empty, has none of the FORMATS or is inconsistent, or the image exceeds
            `max_pixels`. The error's `field` is image.data.
    """
    return scan(data, max_pixels=max_pixels).header


def scan(data: Buffer, *, max_pixels: int) -> Scan:
    """Scan an encoded image: `read_header`, plus the parts of the file that the pixels need."""
    view = memoryview(data).cast("B")
    scanned = _SCANNERS[_detect_format(view)](view)
    header = scanned.header
    if header.width < 1 or header.height < 1:
        raise invalid_image(
            f"the {header.format} image is {header.width} x {header.height} pixels; both must be at least 1"
        )
    if header.width * header.height > max_pixels:
        raise ImageTooLarge(header, max_pixels)
    return scanned


def _detect_format(view: memoryview) -> str:
    if not view:
        raise invalid_image(f"there are no bytes; send a {_format_list()} file")
    prefix = bytes(view[:12])
    for magic, name in _MAGIC:
        if prefix.startswith(magic) and (name != "WEBP" or prefix[8:] == b"WEBP"):
            return name
    description = other_formats.describe(view)
    what = f"not a {_format_list()} file, but {description}" if description else f"not a {_format_list()} file"
    raise invalid_image(f"these {len(view)} bytes are {what}; send an image in one of these formats")


def _format_list() -> str:
    return f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
