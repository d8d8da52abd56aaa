"""Image files for tests: a photograph, a small file of every supported variant, and a writer of arbitrary PNG files."""

import struct
import zlib
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Save = Callable[..., bytes]
WritePng = Callable[..., bytes]


def _save(image: Image.Image, format: str, **options: object) -> bytes:
    file = BytesIO()
    image.save(file, format, **options)
    # Saving leaves the options of one format on the image, and the encoders of other formats fail on them.
    image.encoderconfig = ()
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
    """Return a function that encodes a Pillow image in a format, with Pillow's options."""
    return _save


@pytest.fixture(scope="session")
def write_png() -> WritePng:
    """Return a function that writes a PNG from width, height, bits per sample, color type and the compressed pixels."""
    return _png


@pytest.fixture(scope="session")
def photograph_bytes(photograph: Path) -> bytes:
    """The file of the photograph, a JPEG of 512 x 600 pixels."""
    return photograph.read_bytes()


@pytest.fixture(scope="session")
def image(photograph_bytes: bytes) -> Image.Image:
    """An RGB image of 67 x 45 pixels: not square, and no multiple of a block size."""
    return Image.open(BytesIO(photograph_bytes)).resize((67, 45))


@pytest.fixture(scope="session")
def files(image: Image.Image) -> Mapping[str, bytes]:
    """One file of each supported variant, by name."""
    return variants_of(image)


def variants_of(image: Image.Image) -> Mapping[str, bytes]:
    """Encode an RGB image in each supported variant."""
    palette, rotated = image.quantize(30), image.rotate(90)
    exif = Image.Exif()
    exif[0x0112] = 6
    samples = np.arange(67 * 45, dtype=np.uint16).reshape(45, 67) * 21
    variants = {
        "jpeg": _save(image, "JPEG", exif=exif),
        "jpeg_progressive": _save(image, "JPEG", progressive=True),
        "jpeg_gray": _save(image.convert("L"), "JPEG"),
        "jpeg_cmyk": _save(image.convert("CMYK"), "JPEG"),
        "mpo": _save(image, "MPO", save_all=True, append_images=[image.rotate(90)]),
        "png": _save(image, "PNG", exif=exif),
        "png_palette": _save(palette, "PNG", transparency=2),
        "png_palette_alpha": _save(palette, "PNG", transparency=bytes(range(0, 240, 8))),
        "png_1_bit": _save(image.convert("1"), "PNG"),
        "png_gray": _save(image.convert("L"), "PNG", transparency=100),
        "png_gray_alpha": _save(image.convert("LA"), "PNG"),
        "png_alpha": _save(image.convert("RGBA"), "PNG"),
        "png_16_bit": _save(Image.fromarray(samples), "PNG"),
        "apng": _save(image, "PNG", save_all=True, append_images=[rotated]),
        "webp": _save(image, "WEBP", exif=exif),
        "webp_lossless": _save(image.convert("RGBA"), "WEBP", lossless=True),
        "webp_animated": _save(image, "WEBP", save_all=True, append_images=[rotated]),
        "bmp": _save(image, "BMP"),
        "bmp_palette": _save(palette, "BMP"),
        "bmp_1_bit": _save(image.convert("1"), "BMP"),
        "gif": _save(palette, "GIF", comment=b"hello" * 100),
        "gif_animated": _save(palette, "GIF", save_all=True, append_images=[rotated.quantize(9)], transparency=3),
        "tiff": _save(image, "TIFF"),
        "tiff_big": _save(image, "TIFF", big_tiff=True),
        "tiff_pages": _save(image, "TIFF", save_all=True, append_images=[rotated]),
        "tiff_16_bit": _save(Image.fromarray(samples), "TIFF"),
        "tiff_fax": _save(image.convert("1"), "TIFF", compression="group4"),
    }
    for mode in ("1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr"):
        source = palette.convert(mode) if mode in ("P", "PA") else image.convert(mode)
        variants[f"tiff_{mode}"] = _save(source, "TIFF")
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits", "zstd"):
        variants[f"tiff_{compression}"] = _save(image, "TIFF", compression=compression)
    return variants
