"""The cost of preprocessing an image, estimated from its size before it is decoded."""

import math

from poolservice_server.backbones.manifest import Input, Preprocessing
from poolservice_server.backbones.preprocessing import interpolation
from poolservice_server.backbones.preprocessing.geometry import Axis, geometry
from poolservice_server.backbones.preprocessing.pillow_passes import Pass, plan_passes

# One image: its sizes, and the calls into Pillow and numpy.
_STEPS_PER_IMAGE = 60_000.0
# Copying a value into the sample.
_STEPS_PER_COPY = 0.3
# Copying a byte of a column.
_STEPS_PER_COPIED_BYTE = 0.5
# A coefficient of a filter of Pillow, which computes them anew for each piece of an image, and its bytes.
_STEPS_PER_COEFFICIENT = 10.0
_COEFFICIENT_BYTES = 8


def preprocessing_cost(width: int, height: int, input: Input, preprocessing: Preprocessing) -> tuple[float, int]:
    """Return the steps and the peak bytes of `to_samples` for an upright image that `check_size` accepts.

    Returns:
        The steps, each a nanosecond of one core of the reference machine, and the largest number of bytes in use at a
        time, including the sample but not the decoded planes.
    """
    columns, rows = geometry(width, height, input, preprocessing)
    channels = input.channels
    sample_bytes = channels * input.width * input.height
    kept_bytes = channels * _kept(columns) * _kept(rows)
    steps, peak_bytes = 0.0, 0.0
    if (columns.resized, rows.resized) == (width, height):
        kept_bytes = 0
    elif preprocessing.antialias:
        steps, peak_bytes = _pillow_cost(columns, rows, channels, preprocessing.filter)
    else:
        steps, peak_bytes = _interpolation_cost(columns, rows, channels, preprocessing.filter)
    # In the end, the kept pixels are in an array and in the sample.
    return (
        _STEPS_PER_IMAGE + _STEPS_PER_COPY * sample_bytes + steps,
        int(max(peak_bytes, kept_bytes + sample_bytes)),
    )


def _interpolation_cost(columns: Axis, rows: Axis, channels: int, filter: str) -> tuple[float, float]:
    """Return the steps and the peak bytes of `interpolation.resize`."""
    taps, kept_columns, kept_rows = interpolation.TAPS[filter], _kept(columns), _kept(rows)
    row_steps = interpolation.STEPS_PER_TAP * taps * kept_columns + interpolation.STEPS_PER_COPY * columns.length
    piece = min(kept_rows, interpolation.piece_rows(columns, filter))
    # Of one piece: a copy of rows, gathered bytes, and float32 of products and sums.
    return channels * kept_rows * taps * row_steps, (
        channels * kept_rows * kept_columns + piece * (columns.length + 14 * kept_columns)
    )


def _pillow_cost(columns: Axis, rows: Axis, channels: int, filter: str) -> tuple[float, float]:
    """Return the steps and the peak bytes of `pillow_resize.resize`."""
    first, second = plan_passes(columns, rows, channels, filter)
    pixel_bytes = 4 if channels == 3 else 1
    # Pieces of the planes that are not contiguous are copied before Pillow reads them. Pillow copies colors, too.
    is_complete = first.needed == (0, first.lines) and first.piece >= first.lines
    is_copied = not (first.horizontal or is_complete)
    copy_bytes = channels if is_copied else 0
    first_bytes = _piece_bytes(first, pixel_bytes, pixel_bytes if channels == 3 else copy_bytes, copy_bytes)
    second_bytes = _piece_bytes(second, pixel_bytes, pixel_bytes if second.piece < second.lines else 0, 0)
    between_bytes = second.lines * second.axis.length * pixel_bytes
    kept = _kept(columns) * _kept(rows)
    # Pillow has a pointer to each row. It exports bytes in parts, which it joins.
    pointers = 8 * (rows.length + rows.resized)
    resizing = between_bytes + pointers + max(first_bytes, second_bytes + kept * pixel_bytes)
    exporting = kept * (pixel_bytes + 2 * channels)
    copying = _STEPS_PER_COPIED_BYTE * copy_bytes * (first.needed[1] - first.needed[0]) * first.axis.length
    return copying + _pass_steps(first) + _pass_steps(second), max(resizing, exporting)


def _pass_steps(plan: Pass) -> float:
    lines = plan.needed[1] - plan.needed[0]
    return lines * plan.steps + math.ceil(lines / plan.piece) * _STEPS_PER_COEFFICIENT * plan.coefficients


def _piece_bytes(plan: Pass, pixel_bytes: int, source_bytes: int, copy_bytes: int) -> float:
    """Return the bytes of a piece: its pixels, and at a time their copy or the resized pixels."""
    lines = min(plan.piece, plan.needed[1] - plan.needed[0])
    source = lines * plan.axis.length
    resized = lines * plan.computed * pixel_bytes + _COEFFICIENT_BYTES * (plan.coefficients + plan.computed)
    return source * source_bytes + max(source * copy_bytes, resized)


def _kept(axis: Axis) -> int:
    return axis.kept[1] - axis.kept[0]
