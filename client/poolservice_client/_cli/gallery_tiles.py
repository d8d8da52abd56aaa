"""Results of pooling as small images: colors, maps of colors, and bars for vectors."""

import math
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from PIL import Image, ImageDraw

#: The side of the square that each result fits in, in pixels.
TILE = 150
_BARS_HEIGHT = 72
# A result with fewer rows or columns than this, such as a single column, is stretched to it.
_LEAST_SIDE = 24
_GAP = 4
_PAPER = (255, 255, 255)
# The color of NaN and infinity, such as the maximum of a window without values.
_NOT_FINITE = (214, 214, 214)
_BAR = (63, 114, 175)
_AXIS = (90, 90, 90)
# The bars of a vector that has a value for each color of the photograph.
_RGB = ((209, 73, 91), (76, 159, 112), (63, 114, 175))
# Colors from the lowest to the highest value, at equal distances: dark blue, green, yellow.
_COLOR_MAP = np.array(
    [(68, 1, 84), (71, 44, 122), (59, 81, 139), (44, 113, 142), (33, 144, 141), (39, 173, 129), (92, 200, 99),
     (170, 220, 50), (253, 231, 37)], np.float64
)  # fmt: skip
# Rounding errors of a result that lies in [0, 1].
_TOLERANCE = 1e-3
# An image whose brightest value is lower would hardly be visible, so it is stretched.
_DARK = 0.3

Values: TypeAlias = "np.ndarray[Any, Any]"


class Tile(NamedTuple):
    """A result as it is drawn.

    Attributes:
        image: at most TILE wide and high.
        note: the shape, and the range of the values if colors do not show it.
    """

    image: Image.Image
    note: str


def draw(values: Values, channels: int, *, colored: bool) -> Tile:
    """Draw a result: a vector (D,) or (C, 1, 1) as bars, one or more planes as an image.

    A result that has several times the channels of the sample, or several boxes, is drawn as images beside each other.

    Args:
        values: (D,), (C, H, W) or (K, C, H, W).
        channels: the number of channels of the sample.
        colored: True if the sample is a photograph, whose three channels are colors in [0, 1]. Otherwise the mean over
            the channels is drawn.
    """
    numbers = values.astype(np.float64)
    shape = " x ".join(map(str, values.shape))
    if numbers.size == 0:
        return Tile(Image.new("RGB", (TILE, _LEAST_SIDE), _NOT_FINITE), f"{shape}, no values")
    low, high = _limits(numbers)
    if numbers.ndim < 3 or math.prod(numbers.shape[1:]) == 1:
        return Tile(_bars(numbers.ravel(), low, high), f"{shape}, {low:.3g} to {high:.3g}")
    parts = _parts(numbers, channels)
    if colored and parts.shape[1] == 3:
        in_range = low >= -_TOLERANCE and _DARK <= high <= 1 + _TOLERANCE
        note = shape if in_range else f"{shape}, {low:.3g} to {high:.3g}"
        limits = (0.0, 1.0) if in_range else (low, high)
    else:
        parts = parts.mean(axis=1, keepdims=True)
        limits = low, high = _limits(parts)
        mean = "" if parts.shape[:2] == numbers.shape[:2] or values.shape[-3] == 1 else "mean "
        note = f"{shape}, {mean}{low:.3g} to {high:.3g}"
    return Tile(_in_a_row([_colors(part, *limits) for part in parts]), note)


def _parts(values: Values, channels: int) -> Values:
    """Return the images of a result: (P, C, H, W)."""
    if values.ndim == 4:
        return values
    count = values.shape[0] // channels if values.shape[0] % channels == 0 else 1
    return values.reshape(count, -1, *values.shape[1:])


def _limits(values: Values) -> tuple[float, float]:
    """Return the minimum and the maximum of the finite values; 0 and 0 without any."""
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


def _colors(planes: Values, low: float, high: float) -> Image.Image:
    """Return (3, H, W) as colors, or (1, H, W) by the map of colors; `low` is the darkest."""
    shares = np.clip((np.moveaxis(planes, 0, -1) - low) / ((high - low) or 1.0), 0, 1)
    is_finite: Values = np.asarray(np.isfinite(shares).all(axis=-1))
    shares = np.where(np.isfinite(shares), shares, 0)
    colors = shares * 255
    if shares.shape[-1] == 1:
        positions = np.linspace(0, 1, len(_COLOR_MAP))
        colors = np.stack([np.interp(shares[..., 0], positions, channel) for channel in _COLOR_MAP.T], axis=-1)
    colors = np.where(is_finite[..., None], colors, _NOT_FINITE)
    return Image.fromarray(np.round(colors).astype(np.uint8))


def _in_a_row(images: list[Image.Image]) -> Image.Image:
    """Return images of the same size beside each other, scaled to a tile."""
    available = (TILE - _GAP * (len(images) - 1)) // len(images)
    scaled = [fit(image, max(1, available)) for image in images]
    width = sum(image.width for image in scaled) + _GAP * (len(scaled) - 1)
    row = Image.new("RGB", (width, scaled[0].height), _PAPER)
    left = 0
    for image in scaled:
        row.paste(image, (left, 0))
        left += image.width + _GAP
    return row


def fit(image: Image.Image, width: int = TILE) -> Image.Image:
    """Return an image scaled to the width or to the height of a tile: pixels become squares, or are averaged."""
    scale = min(width / image.width, TILE / image.height)
    size = (
        min(width, max(_LEAST_SIDE, round(image.width * scale))),
        min(TILE, max(_LEAST_SIDE, round(image.height * scale))),
    )
    return image.resize(size, Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX)


def _bars(values: Values, low: float, high: float) -> Image.Image:
    """Return a bar for each value; of more values than pixels, the ones of the largest magnitude."""
    image = Image.new("RGB", (TILE, _BARS_HEIGHT), _PAPER)
    pen = ImageDraw.Draw(image)
    groups = np.array_split(values, min(TILE, len(values)))
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (_BARS_HEIGHT - 3) / ((high - low) or 1.0)
    zero = 1 + round(high * scale)
    gap = 1 if len(groups) <= TILE // 3 else 0
    for number, group in enumerate(groups):
        left, right = number * TILE // len(groups), (number + 1) * TILE // len(groups) - 1 - gap
        value = group[np.argmax(np.abs(np.nan_to_num(group, posinf=0, neginf=0)))]
        if not np.isfinite(value):
            pen.rectangle((left, 0, right, _BARS_HEIGHT), fill=_NOT_FINITE)
            continue
        end = 1 + round((high - float(value)) * scale)
        pen.rectangle((left, min(zero, end), right, max(zero, end)), fill=_RGB[number] if len(values) == 3 else _BAR)
    pen.line((0, zero, TILE, zero), fill=_AXIS)
    return image
