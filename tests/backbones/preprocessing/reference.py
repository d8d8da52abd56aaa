"""The pipeline that models are trained with, written with plain Pillow and numpy in its own order of operations."""

from io import BytesIO

import numpy as np
from PIL import Image, ImageOps

from poolservice_server.backbones.manifest import Input, Preprocessing

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def reference_image(file: bytes, color_mode: str) -> Image.Image:
    """Open a file as data loaders do: upright, without transparency, and with the high bytes of 16 bits."""
    image = ImageOps.exif_transpose(Image.open(BytesIO(file)))
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) // 256).astype(np.uint8))
    return image.convert("RGB" if color_mode == "RGB" else "L")


def reference_samples(
    image: Image.Image, input: Input, preprocessing: Preprocessing, size: tuple[int, int]
) -> np.ndarray:
    """Resize an upright image to a size (width, height), crop it, and return uint8 (C, H, W)."""
    if image.size != size:
        image = image.resize(size, _FILTERS[preprocessing.filter])
    if preprocessing.crop == "center":
        crop = _crop_like_torchvision if preprocessing.crop_rounding == "round" else _crop_like_hugging_face
        image = crop(image, input.width, input.height, preprocessing.fill)
    pixels = np.asarray(image)
    planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return planes[::-1] if input.channel_order == "BGR" else planes


def reference_values(samples: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Scale to floats, subtract the mean and divide by the standard deviation, as torchvision does."""
    scaled = samples.astype(np.float32) / np.float32(1 / preprocessing.scale)
    mean = np.array(preprocessing.mean, np.float32)[:, None, None]
    std = np.array(preprocessing.std, np.float32)[:, None, None]
    return (scaled - mean) / std


def _crop_like_torchvision(image: Image.Image, width: int, height: int, fill: int | tuple[int, ...]) -> Image.Image:
    if image.width < width or image.height < height:
        missing_width, missing_height = max(width - image.width, 0), max(height - image.height, 0)
        border = (missing_width // 2, missing_height // 2, (missing_width + 1) // 2, (missing_height + 1) // 2)
        color = (fill,) * len(image.getbands()) if isinstance(fill, int) else fill
        image = ImageOps.expand(image, border, color)
    left, top = round((image.width - width) / 2.0), round((image.height - height) / 2.0)
    return image.crop((left, top, left + width, top + height))


def _crop_like_hugging_face(image: Image.Image, width: int, height: int, fill: int | tuple[int, ...]) -> Image.Image:
    pixels = np.asarray(image)
    for axis, target in ((0, height), (1, width)):
        missing = target - pixels.shape[axis]
        if missing > 0:
            before = -(-missing // 2)
            padding = [(0, 0)] * pixels.ndim
            padding[axis] = (before, missing - before)
            pixels = np.pad(pixels, padding, constant_values=fill)
        else:
            begin = -missing // 2
            pixels = pixels.take(range(begin, begin + target), axis)
    return Image.fromarray(pixels)
