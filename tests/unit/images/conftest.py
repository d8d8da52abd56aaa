"""Pictures to read: a real photograph, small pictures of every kind, and a writer of PNG files chunk by chunk."""

import struct
import zlib
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path

import matplotlib.cbook
import numpy as np
import pytest
from PIL import Image

Save = Callable[..., bytes]
WritePng = Callable[..., bytes]


def _save(picture: Image.Image, format: str, **options: object) -> bytes:
    file = BytesIO()
    picture.save(file, format, **options)
    # The options of one format stay on a picture that it was saved in, where another's encoder trips over them.
    picture.encoderconfig = ()
    return file.getvalue()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))


def _png(
    width: int, height: int, bits: int, color: int, pixels: bytes, *, before: Mapping[bytes, bytes] | None = None
) -> bytes:
    extra = b"".join(_chunk(kind, data) for kind, data in (before or {}).items())
    header = _chunk(b"IHDR", struct.pack(">LLBBBBB", width, height, bits, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


@pytest.fixture(scope="session")
def save() -> Save:
    """Encode a Pillow picture as a file of a format, with Pillow's options."""
    return _save


@pytest.fixture(scope="session")
def write_png() -> WritePng:
    """A PNG of width, height, bits a sample, colour type and the pixels' compressed bytes."""
    return _png


@pytest.fixture(scope="session")
def photograph() -> bytes:
    """Grace Hopper, a JPEG of 512 x 600 pixels."""
    return Path(str(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))).read_bytes()


@pytest.fixture(scope="session")
def picture(photograph: bytes) -> Image.Image:
    """An RGB picture of 67 x 45 pixels: neither a multiple of anything nor square."""
    return Image.open(BytesIO(photograph)).resize((67, 45))


@pytest.fixture(scope="session")
def files(picture: Image.Image) -> Mapping[str, bytes]:
    """One file of each kind that is read."""
    palette, turned = picture.quantize(30), picture.rotate(90)
    exif = Image.Exif()
    exif[0x0112] = 6
    samples = np.arange(67 * 45, dtype=np.uint16).reshape(45, 67) * 21
    made = {
        "jpeg": _save(picture, "JPEG", exif=exif),
        "jpeg_progressive": _save(picture, "JPEG", progressive=True),
        "jpeg_gray": _save(picture.convert("L"), "JPEG"),
        "jpeg_cmyk": _save(picture.convert("CMYK"), "JPEG"),
        "mpo": _save(picture, "MPO", save_all=True, append_images=[picture.rotate(90)]),
        "png": _save(picture, "PNG", exif=exif),
        "png_palette": _save(palette, "PNG", transparency=2),
        "png_palette_alpha": _save(palette, "PNG", transparency=bytes(range(0, 240, 8))),
        "png_1_bit": _save(picture.convert("1"), "PNG"),
        "png_gray": _save(picture.convert("L"), "PNG", transparency=100),
        "png_gray_alpha": _save(picture.convert("LA"), "PNG"),
        "png_alpha": _save(picture.convert("RGBA"), "PNG"),
        "png_16_bit": _save(Image.fromarray(samples), "PNG"),
        "apng": _save(picture, "PNG", save_all=True, append_images=[turned]),
        "webp": _save(picture, "WEBP", exif=exif),
        "webp_lossless": _save(picture.convert("RGBA"), "WEBP", lossless=True),
        "webp_animated": _save(picture, "WEBP", save_all=True, append_images=[turned]),
        "bmp": _save(picture, "BMP"),
        "bmp_palette": _save(palette, "BMP"),
        "bmp_1_bit": _save(picture.convert("1"), "BMP"),
        "gif": _save(palette, "GIF", comment=b"hello" * 100),
        "gif_animated": _save(palette, "GIF", save_all=True, append_images=[turned.quantize(9)], transparency=3),
        "tiff": _save(picture, "TIFF"),
        "tiff_big": _save(picture, "TIFF", big_tiff=True),
        "tiff_pages": _save(picture, "TIFF", save_all=True, append_images=[turned]),
        "tiff_16_bit": _save(Image.fromarray(samples), "TIFF"),
        "tiff_fax": _save(picture.convert("1"), "TIFF", compression="group4"),
    }
    for mode in ("1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr"):
        source = palette.convert(mode) if mode in ("P", "PA") else picture.convert(mode)
        made[f"tiff_{mode}"] = _save(source, "TIFF")
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits", "zstd"):
        made[f"tiff_{compression}"] = _save(picture, "TIFF", compression=compression)
    return made
