"""Resize without antialiasing, as `torch.nn.functional.interpolate(align_corners=False)` does on tensors.

torchvision resizes tensors of bytes this way if `antialias=False`: it interpolates float32 between the 2 x 2 or 4 x 4
pixels around a position, rounds half to even and clips to bytes. torch sums in an order that depends on the processor
and the memory layout, so a value within 1e-4 of a half may be rounded to the other side there.
"""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from poolservice_server.backbones.preprocessing.geometry import Axis
from poolservice_server.backbones.preprocessing.pillow_passes import PIECE_BYTES, PIECE_STEPS
from poolservice_server.stop import Stop, WorkStopped

# The parameter of torch's cubic convolution. Pillow's is -0.5.
_CUBIC = -0.75

#: Steps per value and pair of taps, and per value of a row that is copied before.
STEPS_PER_TAP = 2.2
STEPS_PER_COPY = 0.8

#: The number of pixels along an axis from which a pixel is interpolated.
TAPS: Mapping[str, int] = MappingProxyType({"bilinear": 2, "bicubic": 4})


def resize(planes: np.ndarray, columns: Axis, rows: Axis, filter: str, stop: Stop) -> np.ndarray:
    """Return the pixels that torch's `interpolate` and a crop return; see `pillow_resize.resize`.

    The filter is bilinear or bicubic.
    """
    column_taps, row_taps = _axis_taps(columns, filter), _axis_taps(rows, filter)
    resized = np.empty((len(planes), rows.kept[1] - rows.kept[0], columns.kept[1] - columns.kept[0]), np.uint8)
    length = piece_rows(columns, filter)
    for plane, result in zip(planes, resized, strict=True):
        for begin in range(0, len(result), length):
            if stop():
                raise WorkStopped
            piece = slice(begin, begin + length)
            values = np.zeros(result[piece].shape, np.float32)
            for indices, weights in zip(*row_taps, strict=True):
                values += _interpolate_rows(plane[indices[piece]], column_taps) * weights[piece, None]
            np.copyto(result[piece], np.clip(np.rint(values), 0, 255), casting="unsafe")
    return resized


def piece_rows(columns: Axis, filter: str) -> int:
    """Return how many rows of a plane are interpolated between two calls of `stop`."""
    steps = STEPS_PER_TAP * TAPS[filter] ** 2 * columns.input + STEPS_PER_COPY * TAPS[filter] * columns.length
    return max(1, min(int(PIECE_STEPS / steps), PIECE_BYTES // columns.length))


def _interpolate_rows(rows: np.ndarray, taps: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return float32 (n, columns), interpolated along rows (n, W)."""
    sums: np.ndarray = np.zeros((), np.float32)
    for indices, weights in zip(*taps, strict=True):
        sums = sums + rows.take(indices, axis=1) * weights
    return sums


def _axis_taps(axis: Axis, filter: str) -> tuple[np.ndarray, np.ndarray]:
    """Return indices (taps, n) and float32 weights (taps, n) for the positions of an axis that are kept."""
    half = np.float32(0.5)
    scale = np.float32(axis.length) / np.float32(axis.resized)
    position = scale * (np.arange(*axis.kept, dtype=np.float32) + half) - half
    last = axis.length - 1
    if filter == "bilinear":
        position = np.maximum(position, np.float32(0))
        first = np.minimum(position.astype(np.int64), last)
        fraction = np.clip(position - first.astype(np.float32), 0, 1)
        return np.stack((first, np.minimum(first + 1, last))), np.stack((1 - fraction, fraction))
    floor = np.floor(position)
    fraction = position - floor
    indices = np.clip(floor.astype(np.int64) + np.arange(-1, 3)[:, None], 0, last)
    return indices, np.stack((_outer(fraction + 1), _inner(fraction), _inner(1 - fraction), _outer(2 - fraction)))


def _inner(distance: np.ndarray) -> np.ndarray:
    """Return the cubic convolution of distances up to 1."""
    weights: np.ndarray = ((_CUBIC + 2) * distance - (_CUBIC + 3)) * distance * distance + 1
    return weights


def _outer(distance: np.ndarray) -> np.ndarray:
    """Return the cubic convolution of distances from 1 to 2."""
    weights: np.ndarray = ((_CUBIC * distance - 5 * _CUBIC) * distance + 8 * _CUBIC) * distance - 4 * _CUBIC
    return weights
