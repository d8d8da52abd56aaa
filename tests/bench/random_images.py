"""Random image files: every kind that the server decodes, from smooth to noisy, from some pixels to megapixels."""

import math
import struct
import zlib
from collections.abc import Iterator, Mapping
from io import BytesIO
from random import Random
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageFile

from poolservice_server.images import ColorMode

# Pillow's buffer for encoding is too small for noise at a high quality.
ImageFile.MAXBLOCK = 2**25

_MODES: tuple[ColorMode, ...] = ("RGB", "GRAY", "RGBA")

# Format, Pillow's mode and options, by name.
_KINDS: Mapping[str, tuple[str, str, dict[str, Any]]] = {
    "jpeg": ("JPEG", "RGB", {}),
    "jpeg gray": ("JPEG", "L", {}),
    "jpeg cmyk": ("JPEG", "CMYK", {}),
    "jpeg progressive": ("JPEG", "RGB", {"progressive": True}),
    "jpeg turned": (
        "JPEG",
        "RGB",
        {"exif": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"},
    ),
    "png": ("PNG", "RGB", {}),
    "png stored": ("PNG", "RGB", {"compress_level": 0}),
    "png rgba": ("PNG", "RGBA", {}),
    "png gray": ("PNG", "L", {}),
    "png gray alpha": ("PNG", "LA", {}),
    "png palette": ("PNG", "P", {}),
    "png 1 bit": ("PNG", "1", {}),
    "png 16 bit": ("PNG", "I;16", {}),
    "png turned": ("PNG", "RGB", {"exif": b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"}),
    "gif": ("GIF", "P", {}),
    "bmp": ("BMP", "RGB", {}),
    "bmp palette": ("BMP", "P", {}),
    "webp": ("WEBP", "RGB", {"method": 0}),
    "webp rgba": ("WEBP", "RGBA", {"method": 0}),
    "webp lossless": ("WEBP", "RGB", {"lossless": True, "method": 0}),
    "tiff": ("TIFF", "RGB", {}),
    "tiff cmyk": ("TIFF", "CMYK", {}),
    "tiff 16 bit": ("TIFF", "I;16", {}),
    "tiff lzw": ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    "tiff lzw 16 bit": ("TIFF", "I;16", {"compression": "tiff_lzw"}),
    "tiff deflate": ("TIFF", "RGB", {"compression": "tiff_adobe_deflate"}),
    "tiff jpeg": ("TIFF", "RGB", {"compression": "jpeg"}),
    "tiff packbits": ("TIFF", "RGB", {"compression": "packbits"}),
    "tiff zstd": ("TIFF", "RGB", {"compression": "zstd"}),
    "tiff fax": ("TIFF", "1", {"compression": "group4"}),
}


class ImageCase(NamedTuple):
    """One measurement: a file, and the channels to decode it to."""

    name: str
    mode: ColorMode
    file: bytes


def random_images(seed: int, *, max_pixels: int = 3_900_000) -> Iterator[ImageCase]:
    """Yield images of up to `max_pixels` pixels each, without end; equal seeds give equal images."""
    random = Random(seed)
    kinds = (*_KINDS, "png interlaced", "bmp run length")
    while True:
        kind, mode = random.choice(kinds), random.choice(_MODES)
        pixels = math.exp(random.uniform(math.log(2**10), math.log(max_pixels)))
        # Some formats allow no side of more than 16383 pixels; in the others an image may be a single column.
        is_long = kind.startswith(("png", "tiff", "bmp")) and random.random() < 0.2
        width = max(1, round(math.sqrt(pixels) * math.exp(random.gauss(0, 4 if is_long else 0.5))))
        height = max(1, round(pixels / width))
        noise = random.choice((0.0, 1.0, random.random()))
        image = _image(width, height, noise, random.randrange(2**32))
        name = f"{kind}, {width} x {height}, noise {noise:.2f}, as {mode}"
        yield ImageCase(name, mode, _write(image, kind, random))


def _image(width: int, height: int, noise: float, seed: int) -> Image.Image:
    """Return a smooth image mixed with noise."""
    rows, columns = np.ogrid[:height, :width]
    smooth = np.empty((height, width, 3), np.float32)
    smooth[..., 0], smooth[..., 1] = rows * 255 / height, columns * 255 / width
    smooth[..., 2] = smooth[..., :2].mean(2)
    random = np.random.default_rng(seed).integers(0, 256, smooth.shape, np.uint8)
    return Image.fromarray(((1 - noise) * smooth + noise * random).astype(np.uint8))


def _write(image: Image.Image, kind: str, random: Random) -> bytes:
    """Return the file of an image."""
    if kind == "png interlaced":
        return _interlaced_png(image)
    if kind == "bmp run length":
        return _run_length_bmp(image)
    image_format, mode, options = _KINDS[kind]
    if image_format == "JPEG":
        options = {"quality": random.randint(30, 98), "subsampling": random.randint(0, 2), **options}
    elif image_format == "PNG":
        options = {"compress_level": random.choice((1, 6, 9)), **options}
    elif image_format == "WEBP":
        options = {"quality": random.randint(30, 100), **options}
    if mode == "I;16":
        converted = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    else:
        converted = image.convert(mode)
    file = BytesIO()
    converted.save(file, image_format, **options)
    return file.getvalue()


def _run_length_bmp(image: Image.Image) -> bytes:
    """Return a BMP file with run lengths of one palette."""
    pixels = np.asarray(image.convert("L"))
    rows = []
    for row in pixels[::-1]:
        ends = np.flatnonzero(np.diff(row, append=-1 - row[-1].astype(int)))
        lengths = np.diff(ends, prepend=-1)
        for length, value in zip(lengths.tolist(), row[ends].tolist(), strict=True):
            rows.append(bytes((255, value)) * (length // 255) + (bytes((length % 255, value)) if length % 255 else b""))
        rows.append(b"\0\0")
    data = b"".join(rows) + b"\0\1"
    palette = b"".join(bytes((value, value, value, 0)) for value in range(256))
    size, start = len(data), 54 + len(palette)
    numbers = [start + size, 0, start, 40, *image.size]
    head = b"BM" + b"".join(number.to_bytes(4, "little") for number in numbers) + b"\1\0\x08\0"
    return head + b"".join(n.to_bytes(4, "little") for n in (1, size, 0, 0, 256, 0)) + palette + data


def _interlaced_png(image: Image.Image) -> bytes:
    """Return an interlaced PNG file, which Pillow cannot write."""
    pixels = np.asarray(image.convert("RGB"))
    rows: list[bytes] = []
    for x, y, dx, dy in (
        (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2),
    ):  # fmt: skip
        rows.extend(b"\0" + row.tobytes() for row in pixels[y::dy, x::dx] if row.size)
    parts = {
        b"IHDR": struct.pack(">LLBBBBB", *image.size, 8, 2, 0, 0, 1),
        b"IDAT": zlib.compress(b"".join(rows)),
        b"IEND": b"",
    }
    chunks = (
        struct.pack(">L", len(content)) + name + content + struct.pack(">L", zlib.crc32(name + content))
        for name, content in parts.items()
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
