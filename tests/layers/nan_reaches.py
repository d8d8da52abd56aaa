"""Which results a NaN reaches, by the sentences of the docstrings: functions that return a mask of a result."""

from collections.abc import Callable
from typing import Any

import numpy as np
from tests.layers.test_every_layer import pooled, values_of

from poolservice.specs import AdaptiveSpec, PoolSpec, WindowSpec
from poolservice_server.operator_shapes import output_shape

Array = Any  # np.ndarray of any dtype
Position = tuple[int, ...]

#: A value that all results depend on, unless its weight is 0 or it is left out.
LARGE = 1e15


def base_of(spec: PoolSpec, shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
    """Return two samples. CroW and a sum of square roots are defined for values of 0 or more."""
    samples = values_of((2, *shape), dtype)
    return np.abs(samples) if spec.operator == "crow" or getattr(spec, "norm_type", None) == 0.5 else samples


def with_value(samples: Array, position: Position, value: float) -> Array:
    """Return the samples with a value at a position (C, *) of the first one."""
    changed = samples.copy()
    changed[(0, *position)] = value
    return changed


def position_of(number: int, shape: tuple[int, ...]) -> Position:
    """Return the position of a flat index."""
    return tuple(map(int, np.unravel_index(number, shape)))


def bits(array: Array) -> Array:
    return array.view(f"u{array.itemsize}")


def in_windows(spec: PoolSpec, samples: Array, position: Position) -> Array:
    shape = samples.shape[1:]
    if not isinstance(spec, WindowSpec):
        return where_it_counts(spec, samples, position)
    out = output_shape(spec, shape)
    window = spec.window_in(shape[1:])
    axes = [np.arange(out[0]) == position[0]]
    sizes = zip(out[1:], position[1:], window.kernel_size, window.stride, window.padding, window.dilation, strict=True)
    for size, place, kernel, stride, padding, dilation in sizes:
        offsets = place - (np.arange(size) * stride - padding)
        axes.append((offsets % dilation == 0) & (offsets >= 0) & (offsets <= dilation * (kernel - 1)))
    return product(axes)


def in_windows_by_the_mask(spec: Any, samples: Array, position: Position) -> Array:
    if spec.lengths is not None:
        counts = position[1] < spec.lengths.array.reshape(-1)[0]
    else:
        counts = spec.mask.array[position[1:]] > 0
    return in_windows(spec, samples, position) & counts


def in_tiles(spec: PoolSpec, samples: Array, position: Position) -> Array:
    shape = samples.shape[1:]
    if not isinstance(spec, AdaptiveSpec):
        return where_it_counts(spec, samples, position)
    out = output_shape(spec, shape)
    axes = [np.arange(out[0]) == position[0]]
    for size, length, place in zip(out[1:], shape[1:], position[1:], strict=True):
        tile = np.arange(size)
        axes.append((tile * length // size <= place) & (place < -(-(tile + 1) * length // size)))
    return product(axes)


def in_channel(spec: PoolSpec, samples: Array, position: Position) -> Array:
    mask = np.zeros(output_shape(spec, samples.shape[1:]), bool)
    mask[position[0]] = True
    return mask


def in_sample(spec: PoolSpec, samples: Array, position: Position) -> Array:
    return np.ones(output_shape(spec, samples.shape[1:]), bool)


def in_shrinking_dimensions(spec: Any, samples: Array, position: Position) -> Array:
    out = output_shape(spec, samples.shape[1:])
    pairs = zip(out[1:], samples.shape[2:], position[1:], strict=True)
    return product(
        [
            np.arange(out[0]) == position[0],
            *((np.arange(size) == place) | (size < length) for size, length, place in pairs),
        ]
    )


def in_row_and_column(spec: Any, samples: Array, position: Position) -> Array:
    mask = np.zeros((samples.shape[1],) * 2, bool)
    mask[position[0]] = mask[:, position[0]] = True
    return mask.reshape(-1) | spec.l2_normalize


def in_its_part(spec: Any, samples: Array, position: Position) -> Array:
    return where_it_counts(spec, samples, position) | spec.l2_normalize


def in_covariances(spec: Any, samples: Array, position: Position) -> Array:
    first, second = np.triu_indices(samples.shape[1])
    return (first == position[0]) | (second == position[0]) | (spec.iterations > 0)


def where_it_counts(spec: PoolSpec, samples: Array, position: Position) -> Array:
    """Return the results that a large value changes."""
    changed = bits(pooled(spec, with_value(samples, position, LARGE))) != bits(pooled(spec, samples))
    return changed[0]


def product(axes: list[Array]) -> Array:
    mask = np.ones((), bool)
    for axis in axes:
        mask = mask[..., None] & axis
    return mask


REACHES: dict[str, Callable[[Any, Array, Position], Array]] = {
    "a NaN gives NaN in the windows that hold it.": in_windows,
    "a NaN of weight 0 does not count; any other gives NaN in the windows that hold it.": in_windows_by_the_mask,
    "a NaN gives NaN in the tiles that hold it.": in_tiles,
    "a NaN gives NaN for its channel.": in_channel,
    "a NaN gives NaN in the whole vector of its sample.": in_sample,
    "a NaN gives NaN in the whole vector of its sample, and with iterations=0 in the covariances of its channel.": (
        in_covariances
    ),
    "a NaN gives NaN in the row and the column of its channel, and with `l2_normalize` in the whole vector.": (
        in_row_and_column
    ),
    "a NaN gives NaN in the values of which its channel is a part, and with `l2_normalize` in the whole vector.": (
        in_its_part
    ),
    "a NaN gives NaN in its plane, along the dimensions that shrink.": in_shrinking_dimensions,
    "a NaN gives NaN where it has a weight.": where_it_counts,
    "a NaN gives NaN where the filter reaches a window that holds it.": where_it_counts,
    "a NaN gives NaN in the bins that hold it.": where_it_counts,
    "a NaN gives NaN in the bins that hold it, where torchvision ignores it.": where_it_counts,
    "a NaN gives NaN in its row and its column.": where_it_counts,
    "a NaN gives NaN wherever it is in the maximum.": where_it_counts,
    "a NaN gives NaN in its window.": where_it_counts,
    "a NaN is a value like any other.": where_it_counts,
}
