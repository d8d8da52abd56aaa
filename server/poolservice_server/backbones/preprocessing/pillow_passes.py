"""The two passes in which Pillow resizes an image, and the part of each that the crop keeps.

Pillow resizes one axis of an image after the other, and rounds to bytes in between. Each pass computes a row or a
column, here a line, from that line alone. So the same bits result if the lines that no kept pixel depends on are left
out. Along the axis that a pass resizes, Pillow's coefficients depend on the complete length.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import PIL

from poolservice_server.backbones.preprocessing.geometry import Axis

#: Steps between two calls of `stop`, and the bytes that a piece of an image takes.
PIECE_STEPS = 20e6
PIECE_BYTES = 8 * 2**20

# A pixel in Pillow's images with several channels.
_PIXEL_BYTES = 4

# Pillow computes its coefficients anew for each piece, which takes as long as some lines.
_SMALLEST_PIECE = 16

# The steps of copying a value into an image of Pillow, of computing a value, and of each value that it depends on.
_STEPS_PER_COPY = 0.3
_STEPS_PER_VALUE = 1.2
_STEPS_PER_TAP = 0.45

# How far a filter reaches to each side, in pixels of the larger one of the image and the resized image.
_SUPPORT: Mapping[str, float] = MappingProxyType(
    {"nearest": 0.5, "box": 0.5, "bilinear": 1.0, "hamming": 1.0, "bicubic": 2.0, "lanczos": 3.0}
)

# Pillow stores boxes as float32, which represents these integers, and their quotients by powers of two.
_MAX_EXACT = 2**24

_PILLOW_VERSION = tuple(int(part) for part in PIL.__version__.split(".")[:2])


class Pass(NamedTuple):
    """A pass over the rows or the columns of an image.

    Attributes:
        horizontal: True if the lines are rows, which get another length; False if they are columns.
        axis: how a line is resized, and which part of it is kept.
        lines: the number of lines of the image.
        needed: the range of lines to resize. No kept pixel depends on the others.
        box: the part of a line from which Pillow computes exactly the kept part; None if it has to compute all of it.
        computed: how many values of a line Pillow computes; 0 if it leaves lines as they are.
        coefficients: the number of Pillow's coefficients.
        steps: the steps of a line.
        piece: the number of lines in a piece of the image.
    """

    horizontal: bool
    axis: Axis
    lines: int
    needed: tuple[int, int]
    box: tuple[float, float] | None
    computed: int
    coefficients: float
    steps: float
    piece: int


def plan_passes(columns: Axis, rows: Axis, channels: int, filter: str) -> tuple[Pass, Pass]:
    """Return the passes in the order in which Pillow runs them."""
    horizontal = not _is_vertical_first(columns, rows, filter)
    first, second = (columns, rows) if horizontal else (rows, columns)
    kept = first.kept[1] - first.kept[0]
    return (
        _plan(horizontal, first, second.length, _source_range(second, filter), channels, filter),
        _plan(not horizontal, second, kept, (0, kept), channels, filter),
    )


def _plan(horizontal: bool, axis: Axis, lines: int, needed: tuple[int, int], channels: int, filter: str) -> Pass:
    box, computed, coefficients = None, 0, 0.0
    if axis.resized != axis.length:
        box = _exact_box(axis)
        computed = axis.resized if box is None else axis.kept[1] - axis.kept[0]
        scale = max(1.0, axis.length / axis.resized) if filter != "nearest" else 1.0
        coefficients = computed * 2 * _SUPPORT[filter] * scale
    steps = channels * (_STEPS_PER_COPY * axis.length + _STEPS_PER_VALUE * computed + _STEPS_PER_TAP * coefficients)
    nbytes = _PIXEL_BYTES * (axis.length + computed)
    piece = max(_SMALLEST_PIECE, min(int(PIECE_STEPS / steps), PIECE_BYTES // nbytes))
    return Pass(horizontal, axis, lines, needed, box, computed, coefficients, steps, piece)


def _is_vertical_first(columns: Axis, rows: Axis, filter: str) -> bool:
    """Return True if this version of Pillow resizes the height of such an image before its width."""
    if filter == "nearest":
        return False  # The order makes no difference.
    removed_columns, removed_rows = columns.length - columns.resized, rows.length - rows.resized
    if _PILLOW_VERSION >= (13, 0):
        return removed_rows > max(0, 2 * removed_columns)
    return _PILLOW_VERSION >= (12, 2) and removed_rows > 0 and rows.length > 100 * columns.length


def _source_range(axis: Axis, filter: str) -> tuple[int, int]:
    """Return a range of the image that contains everything on which the kept part of the resized axis depends."""
    begin, end = axis.kept
    if axis.resized == axis.length:
        return begin, end
    scale = axis.length / axis.resized
    # One element more than the filter's support, because Pillow rounds the range.
    support = _SUPPORT[filter] * max(1.0, scale) + 1
    return (
        max(0, math.floor((begin + 0.5) * scale - support)),
        min(axis.length, math.ceil((end - 0.5) * scale + support)),
    )


def _exact_box(axis: Axis) -> tuple[float, float] | None:
    """Return the part of an axis from which Pillow computes the kept part with the same coefficients, if there is one.

    Pillow computes the distance of two resized pixels from the part's length. The coefficients are the same if nothing
    is rounded, which is so if that distance is a fraction of a power of two, as with a side of 256.
    """
    divisor = math.gcd(axis.resized, axis.length)
    denominator = axis.resized // divisor
    begin, end = (edge * (axis.length // divisor) for edge in axis.kept)
    if denominator & (denominator - 1) == 0 and end < _MAX_EXACT:
        return begin / denominator, end / denominator
    return None
