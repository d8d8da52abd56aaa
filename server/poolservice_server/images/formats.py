"""Which kind of file it is, and what its header says."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from poolservice_server.images import bmp, gif, jpeg, png, tiff, webp
from poolservice_server.images.scan import Buffer, Header, Scan, refusal

_SCANNERS: Mapping[str, Callable[[memoryview], Scan]] = MappingProxyType(
    {"JPEG": jpeg.scan, "PNG": png.scan, "WEBP": webp.scan, "BMP": bmp.scan, "TIFF": tiff.scan, "GIF": gif.scan}
)

#: The formats that are read, by Pillow's names.
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
    """What the encoded picture `data` says of itself; costs microseconds and decodes nothing.

    Args:
        data: the encoded file.
        max_pixels: the most pixels, width times height, that the picture may have.

    Raises:
        InvalidRequest: it is none of FORMATS, lies about its parts, is empty, or is larger than `max_pixels`.
    """
    return scan(data, max_pixels=max_pixels).header


def scan(data: Buffer, *, max_pixels: int) -> Scan:
    """`read_header`, with the parts of the file that make pixels."""
    view = memoryview(data).cast("B")
    found = _SCANNERS[_format(view)](view)
    header = found.header
    if header.width < 1 or header.height < 1:
        raise refusal(
            f"the {header.format} picture is {header.width} x {header.height} pixels; both must be at least 1"
        )
    if header.width * header.height > max_pixels:
        raise refusal(
            f"the {header.format} picture is {header.width} x {header.height} = {header.width * header.height} pixels, "
            f"and this server reads at most {max_pixels}; scale it down first"
        )
    return found


def _format(view: memoryview) -> str:
    if not view:
        raise refusal(f"there are no bytes; send a {_accepted()} file")
    prefix = bytes(view[:12])
    for magic, name in _MAGIC:
        if prefix.startswith(magic) and (name != "WEBP" or prefix[8:] == b"WEBP"):
            return name
    raise refusal(f"these {len(view)} bytes are no {_accepted()} file; convert the picture to one of these")


def _accepted() -> str:
    return f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
