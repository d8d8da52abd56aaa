"""Image files for tests, the same bytes of pixels on every machine."""

from collections.abc import Callable, Mapping
from io import BytesIO

import numpy as np
from PIL import Image

_ORIENTATION = 0x0112


def pixels(width: int, height: int, channels: int, seed: int = 0) -> np.ndarray:
    """Return uint8 (height, width, channels): waves with noise, different in each channel."""
    y, x, channel = np.ogrid[:height, :width, :channels]
    waves = 90 * np.sin((x * (1 + channel) + 2 * y + seed) / 9.0) + 60 * np.cos((x - y * (2 + channel)) / 23.0)
    noise = (x * 37 + y * 91 + (x * y + seed) % 53 * 29 + channel * 59) % 97 - 48
    values: np.ndarray = np.clip(np.rint(128 + waves + noise), 0, 255).astype(np.uint8)
    return values


def save(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    """Encode an image."""
    file = BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def image(mode: str, width: int, height: int, seed: int = 0) -> Image.Image:
    """Return an image of one of Pillow's modes."""
    if mode == "I;16":
        high, low = (pixels(width, height, 1, seed + shift)[:, :, 0].astype(np.uint16) for shift in (0, 7))
        return Image.fromarray(high * 256 + low)
    if mode == "1":
        return Image.fromarray(pixels(width, height, 1, seed)[:, :, 0] > 127)
    if mode == "P":
        indexed = Image.fromarray(pixels(width, height, 1, seed)[:, :, 0] // 4)
        indexed.putpalette([(index * factor + 40) % 256 for index in range(64) for factor in (3, 7, 11)])
        return indexed
    bands = len(Image.new(mode, (1, 1)).getbands())
    values = pixels(width, height, bands, seed)
    return Image.fromarray(values[:, :, 0] if bands == 1 else values, mode)


def turned(orientation: int, width: int, height: int) -> bytes:
    """Return a PNG file of an RGB image with an EXIF orientation."""
    exif = Image.Exif()
    exif[_ORIENTATION] = orientation
    return save(image("RGB", width, height), exif=exif)


#: The images of the golden tests. None of them depends on a lossy decoder.
FILES: Mapping[str, Callable[[], bytes]] = {
    "landscape": lambda: save(image("RGB", 320, 213)),
    "portrait": lambda: save(image("RGB", 213, 320)),
    "odd": lambda: save(image("RGB", 333, 251)),
    "small": lambda: save(image("RGB", 20, 31)),
    "wide": lambda: save(image("RGB", 600, 60)),
    "a single pixel": lambda: save(image("RGB", 1, 1)),
    "of the input's size": lambda: save(image("RGB", 224, 224)),
    "orientation 6": lambda: turned(6, 300, 200),
    "gray": lambda: save(image("L", 320, 213)),
    "palette": lambda: save(image("P", 320, 213)),
    "alpha": lambda: save(image("RGBA", 320, 213)),
    "gray with alpha": lambda: save(image("LA", 320, 213)),
    "16 bits": lambda: save(image("I;16", 320, 213)),
    "CMYK": lambda: save(image("CMYK", 320, 213), "TIFF"),
}
