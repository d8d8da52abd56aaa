"""Resize with Pillow and crop, in pieces, computing only what the crop keeps."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeVar

import numpy as np
from PIL import Image

from poolservice_server.backbones.preprocessing.geometry import Axis
from poolservice_server.backbones.preprocessing.pillow_passes import Pass, plan_passes
from poolservice_server.stop import Stop, WorkStopped

_Number = TypeVar("_Number", int, float)

_FILTERS: Mapping[str, Image.Resampling] = MappingProxyType(
    {
        "nearest": Image.Resampling.NEAREST,
        "box": Image.Resampling.BOX,
        "bilinear": Image.Resampling.BILINEAR,
        "hamming": Image.Resampling.HAMMING,
        "bicubic": Image.Resampling.BICUBIC,
        "lanczos": Image.Resampling.LANCZOS,
    }
)


def resize(planes: np.ndarray, columns: Axis, rows: Axis, filter: str, stop: Stop) -> np.ndarray:
    """Return the pixels that Pillow's `resize` and `crop` return.

    Args:
        planes: uint8 (C, H, W), C = 1 or 3, planar or interleaved.
        columns: how the columns are resized, and which of them to return.
        rows: the same for the rows.
        filter: the name of the filter.
        stop: returns True if nobody waits for the image any more.

    Returns:
        uint8 (C, kept rows, kept columns), interleaved.

    Raises:
        WorkStopped: `stop` returned True.
    """
    mode = "RGB" if len(planes) == 3 else "L"
    first, second = plan_passes(columns, rows, len(planes), filter)

    def lines_of_planes(begin: int, end: int) -> Image.Image:
        return _image(planes[:, begin:end] if first.horizontal else planes[:, :, begin:end])

    def lines_of_between(begin: int, end: int) -> Image.Image:
        if (begin, end) == second.needed:
            return between
        return between.crop((0, begin, between.width, end) if second.horizontal else (begin, 0, end, between.height))

    between = _run(first, lines_of_planes, mode, _FILTERS[filter], stop)
    pixels: np.ndarray = np.asarray(_run(second, lines_of_between, mode, _FILTERS[filter], stop))
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)


def _run(
    plan: Pass, lines: Callable[[int, int], Image.Image], mode: str, resample: Image.Resampling, stop: Stop
) -> Image.Image:
    """Resize the lines of an image, and return the part of them that is kept. Lines that nobody needs are black.

    Args:
        plan: the pass.
        lines: returns a range of the image's lines.
        mode: Pillow's mode of the image.
        resample: the filter.
        stop: returns True if nobody waits for the image any more.
    """
    start, end = plan.axis.kept
    result = Image.new(mode, _oriented(plan, end - start, plan.lines))
    for begin in range(*plan.needed, plan.piece):
        if stop():
            raise WorkStopped
        last = min(begin + plan.piece, plan.needed[1])
        piece = lines(begin, last)
        if plan.computed:
            size = _oriented(plan, plan.computed, last - begin)
            box = plan.box or (0, plan.axis.length)
            piece = piece.resize(size, resample, (*_oriented(plan, box[0], 0), *_oriented(plan, box[1], last - begin)))
        result.paste(piece, _oriented(plan, 0 if plan.box else -start, begin))
    return result


def _oriented(plan: Pass, along: _Number, across: _Number) -> tuple[_Number, _Number]:
    """Return x and y, of which the first is along the lines of a pass and the second across them."""
    return (along, across) if plan.horizontal else (across, along)


def _image(planes: np.ndarray) -> Image.Image:
    """Return an image of the planes. A grayscale image shares their memory if they are contiguous."""
    if len(planes) == 1:
        return _gray_image(planes[0])
    if planes.strides[0] == 1:
        return Image.fromarray(np.ascontiguousarray(np.moveaxis(planes, 0, -1)))
    return Image.merge("RGB", [_gray_image(plane) for plane in planes])


def _gray_image(plane: np.ndarray) -> Image.Image:
    height, width = plane.shape
    return Image.frombuffer("L", (width, height), np.ascontiguousarray(plane), "raw", "L", 0, 1)
