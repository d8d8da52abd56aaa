"""What NaN and infinities do to the result of every layer: what the layer's docstring says, and nothing else.

The section NaN of a docstring is made of the sentences in the tables of this file. The first one says which results
become NaN: those are compared with the definition of the windows, tiles and regions. All others must keep their bits,
or their values if the docstring says that the rounding may change. The second sentence says what an infinity gives.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import pytest
from tests.layers.examples import EXAMPLES
from tests.layers.head_folders import POOL_HEADS
from tests.layers.test_docstrings import sections_of, sentences_of
from tests.layers.test_every_layer import pooled, values_of

from poolservice.specs import (
    LAYERS,
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveAvgPool3d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AdaptiveMaxPool3d,
    AdaptiveSpec,
    AvgPool1d,
    AvgPool2d,
    AvgPool3d,
    GlobalAvgPool1d,
    GlobalAvgPool2d,
    GlobalAvgPool3d,
    GlobalMaxPool1d,
    GlobalMaxPool2d,
    GlobalMaxPool3d,
    GlobalMinPool1d,
    GlobalMinPool2d,
    GlobalMinPool3d,
    LPPool1d,
    LPPool2d,
    LPPool3d,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
    MinPool1d,
    MinPool2d,
    MinPool3d,
    MixedPool1d,
    MixedPool2d,
    MixedPool3d,
    PoolSpec,
    WindowSpec,
)
from poolservice_server.operator_shapes import output_shape

Array = Any  # np.ndarray of any dtype
Position = tuple[int, ...]
Entry = TypeVar("Entry")

#: The classic layers, which `examples.py` leaves out; their kernels differ by the size of the window.
CLASSIC: list[tuple[PoolSpec, tuple[int, ...]]] = [
    (MaxPool1d(3, 2, 1), (2, 9)),
    (MaxPool2d(3, 2, 1, dilation=2, ceil_mode=True), (2, 9, 10)),
    (MaxPool2d(9, 2), (2, 30, 31)),
    (MaxPool3d(2), (2, 4, 5, 6)),
    (MinPool1d(3, 2, 1), (2, 9)),
    (MinPool2d(9, 2), (2, 30, 31)),
    (MinPool3d(2), (2, 4, 5, 6)),
    (AvgPool1d(3, 2, 1), (2, 9)),
    (AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), (2, 9, 10)),
    (AvgPool2d(2, divisor_override=-3), (2, 8, 8)),
    (AvgPool2d(9, 1), (2, 60, 61)),
    (AvgPool3d(2), (2, 4, 5, 6)),
    (LPPool1d(2, 3), (2, 9)),
    (LPPool2d(2, 9, 2), (2, 30, 31)),
    (LPPool2d(3, 2), (2, 8, 9)),
    (LPPool2d(1, 2), (2, 8, 9)),
    (LPPool2d(3, 2, absolute=True), (2, 8, 9)),
    (LPPool2d(float("inf"), 2, absolute=True), (2, 8, 9)),
    (LPPool3d(2, 2), (2, 4, 5, 6)),
    (AdaptiveAvgPool1d(4), (2, 9)),
    (AdaptiveAvgPool2d((3, None)), (2, 9, 10)),
    (AdaptiveAvgPool2d(7), (2, 64, 64)),
    (AdaptiveAvgPool3d(2), (2, 4, 5, 6)),
    (AdaptiveMaxPool1d(4), (2, 9)),
    (AdaptiveMaxPool2d((3, None)), (2, 9, 10)),
    (AdaptiveMaxPool3d(2), (2, 4, 5, 6)),
    *((layer(), (2, 30)) for layer in (GlobalAvgPool1d, GlobalMaxPool1d, GlobalMinPool1d)),
    *((layer(), (2, 9, 10)) for layer in (GlobalAvgPool2d, GlobalMaxPool2d, GlobalMinPool2d)),
    *((layer(), (2, 4, 5, 6)) for layer in (GlobalAvgPool3d, GlobalMaxPool3d, GlobalMinPool3d)),
    (MixedPool1d(3, 2, 1), (2, 9)),
    (MixedPool2d(3, 2, 1, alpha=0.3), (2, 9, 10)),
    (MixedPool2d(2, alpha_per_channel=(0.0, 1.0)), (2, 9, 10)),
    (MixedPool3d(2), (2, 4, 5, 6)),
]
ALL = CLASSIC + [(POOL_HEADS.resolve(spec), shape) for spec, shape in EXAMPLES]

#: A value that all results depend on, unless its weight is 0 or it is left out.
LARGE = 1e15
#: The largest magnitude of a test: an infinity replaces it.
LARGEST = np.float32(3e38)


def base_of(spec: PoolSpec, shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
    """Return two samples. CroW is defined for values of 0 or more."""
    samples = values_of((2, *shape), dtype)
    return np.abs(samples) if spec.operator == "crow" else samples


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


# Which results a NaN reaches: functions of the spec, the samples and the position, which return a mask of a result.


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
    "a NaN is a value as any other.": where_it_counts,
}


# What an infinity gives: checks of the results that it reaches, against those of the largest value in its place.


def the_same(spec: Any, value: float, got: Array, largest: Array) -> None:
    np.testing.assert_array_equal(got, -value if (getattr(spec, "divisor_override", None) or 1) < 0 else value)


def as_a_value(spec: Any, value: float, got: Array, largest: Array) -> None:
    expected = np.where(np.abs(largest) == LARGEST, np.copysign(np.inf, largest), largest)
    np.testing.assert_array_equal(got, expected)


def not_a_number(spec: Any, value: float, got: Array, largest: Array) -> None:
    assert np.isnan(got).all()


def positive(spec: Any, value: float, got: Array, largest: Array) -> None:
    np.testing.assert_array_equal(got, np.inf)


def positive_or_low(spec: Any, value: float, got: Array, largest: Array) -> None:
    np.testing.assert_allclose(got, largest if value < 0 else np.inf, 1e-6)


def power_sum(spec: Any, value: float, got: Array, largest: Array) -> None:
    np.testing.assert_array_equal(got, value if spec.norm_type == 1 and not spec.absolute else np.inf)


def the_same_or_left_out(spec: Any, value: float, got: Array, largest: Array) -> None:
    assert ((got == value) | ((value < 0) & (bits(got) == bits(largest)))).all()


def the_same_if_it_counts(spec: Any, value: float, got: Array, largest: Array) -> None:
    assert ((got == value) | (bits(got) == bits(largest))).all()


def not_a_number_if_largest(spec: Any, value: float, got: Array, largest: Array) -> None:
    assert np.isnan(got).all() if value > 0 else (bits(got) == bits(largest)).all()


def the_same_or_times_0(spec: Any, value: float, got: Array, largest: Array) -> None:
    shares = np.ravel(spec.weight_of_maximum)
    assert ((got == value) | (np.isnan(got) & bool(((shares == 0) | (shares == 1)).any()))).all()


def the_same_but_at_its_position(spec: Any, value: float, got: Array, largest: Array) -> None:
    assert np.isnan(got).sum() == 1
    np.testing.assert_array_equal(got[~np.isnan(got)], value)


def not_finite(spec: Any, value: float, got: Array, largest: Array) -> None:
    assert not np.isfinite(got).any()


def infinite_or_normalized(spec: Any, value: float, got: Array, largest: Array) -> None:
    if spec.l2_normalize:
        assert np.isnan(got).any()
        assert (np.isnan(got) | (got == 0)).all()
    else:
        assert not np.isfinite(got).any()


INFINITIES: dict[str, Callable[[Any, float, Array, Array], None]] = {
    "An infinity gives the same infinity, and infinities of both signs give NaN.": the_same,
    "An infinity is a value as any other.": as_a_value,
    "So is an infinity.": as_a_value,
    "So does an infinity.": not_a_number,
    "So does an infinity among the maxima.": not_a_number_if_largest,
    "An infinity of either sign gives inf.": positive,
    "inf gives inf, and -inf counts as any low value does.": positive_or_low,
    "For a positive p, an infinity gives inf, or for p = 1 without `absolute` itself.": power_sum,
    "An infinity gives the same infinity, unless the maximum leaves it out.": the_same_or_left_out,
    "An infinity among the values that count gives the same infinity.": the_same_if_it_counts,
    "An infinity gives an infinity, unless its weight is 0.": the_same_if_it_counts,
    "An infinity gives the same infinity, or NaN where the formula multiplies it by 0.": the_same_or_times_0,
    "An infinity gives an infinity or NaN, as the formula does.": not_finite,
    "An infinity gives the same infinity, and NaN at its own position.": the_same_but_at_its_position,
    "An infinity gives infinities there; with `l2_normalize` NaN, and 0 elsewhere.": infinite_or_normalized,
    "An infinity gives infinities or NaN there; with `l2_normalize` NaN, and 0 elsewhere.": infinite_or_normalized,
    "An infinity gives infinities or NaN there.": not_finite,
}

#: The sentences that let the results that an infinity or a NaN does not reach differ in their last bits.
ROUNDINGS: dict[str, Callable[[Any], bool]] = {
    "Either can change the rounding of the sample's other results.": lambda spec: True,
    "With `absolute`, either can change the rounding of the sample's other results.": lambda spec: spec.absolute,
    'With "weighted", either can change the rounding of the sample\'s other results.': (
        lambda spec: spec.mode == "weighted"
    ),
}

#: Sentences that add nothing to these tables.
OTHERS = {
    "A negative `divisor_override` changes their sign.",
    "The authors' code gives 0 instead of NaN.",
}

#: The layers whose docstring leaves open which results a NaN reaches: others' layers and learned weights decide it.
OF_LAYERS = "a NaN has the effect of the first layer; the next ones see the result."
OF_WEIGHTS = "a NaN gives NaN in some or all values of its sample's result. An infinity may do so."


def documentation_of(layer: type[PoolSpec]) -> str:
    return sentences_of(sections_of(layer)["NaN"])


def layer_of(spec: PoolSpec) -> type[PoolSpec]:
    """Return the layer of a spec; of a pool head with its weights the layer that names it."""
    return LAYERS[spec.operator, spec.spatial_dims]


def found(table: dict[str, Entry], layer: type[PoolSpec]) -> list[Entry]:
    """Return the entries of a table whose sentences the docstring has."""
    # A sentence may be the end of another one: its words start after the title or after a full stop.
    text = f". {documentation_of(layer)} "
    return [entry for sentence, entry in table.items() if f". {sentence} " in text]


def reach_of(spec: PoolSpec, samples: Array, position: Position) -> Array:
    """Return the mask of the results of the first sample that a NaN at the position reaches."""
    return found(REACHES, layer_of(spec))[0](spec, samples, position)


@functools.cache
def positions_in(spec: PoolSpec, shape: tuple[int, ...]) -> list[tuple[Position, Array]]:
    """Return positions and what they reach: two that reach a result, and one that reaches none if there are many."""
    samples = base_of(spec, shape)
    reaching: list[tuple[Position, Array]] = []
    others: list[tuple[Position, Array]] = []
    for tried, number in enumerate(np.random.default_rng(len(repr(spec))).permutation(samples[0].size)):
        if len(reaching) >= 2 and (others or tried >= 20):
            break
        position = position_of(int(number), shape)
        reach = reach_of(spec, samples, position)
        (reaching if reach.any() else others).append((position, reach))
    assert len(reaching) >= 2
    return reaching[:2] + others[:1]


def assert_unchanged(spec: PoolSpec, got: Array, before: Array, reach: Array) -> None:
    """Check that a value at a position of the first sample changes the results that it reaches, and no others."""
    assert got[1:].tobytes() == before[1:].tobytes()
    rest, rest_before = got[0][~reach], before[0][~reach]
    if any(rounds(spec) for rounds in found(ROUNDINGS, layer_of(spec))):
        tolerance = 4 * np.finfo(got.dtype).eps
        np.testing.assert_allclose(rest.astype(np.float64), rest_before.astype(np.float64), tolerance, tolerance)
    else:
        np.testing.assert_array_equal(bits(rest), bits(rest_before))


@pytest.mark.parametrize("layer", LAYERS.values(), ids=[layer.__name__ for layer in LAYERS.values()])
def test_the_docstring_says_what_nan_and_infinities_do(layer: type[PoolSpec]) -> None:
    text = documentation_of(layer)
    if text in (OF_LAYERS, OF_WEIGHTS):
        return
    assert len(found(REACHES, layer)) == len(found(INFINITIES, layer)) == 1
    for sentence in (*REACHES, *INFINITIES, *ROUNDINGS, *OTHERS):
        text = f". {text} ".replace(f". {sentence} ", ". ", 1)[2:].strip()
    assert not text


def test_every_layer_is_tested() -> None:
    assert {layer_of(spec) for spec, _ in ALL} == set(LAYERS.values())


def each_of(examples: list[tuple[PoolSpec, tuple[int, ...]]]) -> pytest.MarkDecorator:
    ids = [f"{number}-{type(spec).__name__}" for number, (spec, _) in enumerate(examples)]
    return pytest.mark.parametrize(("spec", "shape"), examples, ids=ids)


SEQUENCES = [(spec, shape) for spec, shape in ALL if documentation_of(layer_of(spec)) == OF_LAYERS]
HEADS = [(spec, shape) for spec, shape in ALL if documentation_of(layer_of(spec)) == OF_WEIGHTS]
OTHER_EXAMPLES = [example for example in ALL if example not in SEQUENCES + HEADS]
SUMS = [(spec, shape) for spec, shape in ALL if found(INFINITIES, layer_of(spec)) == [the_same]]


@each_of(OTHER_EXAMPLES)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_nan_reaches_what_the_docstring_says(spec: PoolSpec, shape: tuple[int, ...], dtype: Any) -> None:
    samples = base_of(spec, shape, dtype)
    before = pooled(spec, samples)
    for position, reach in positions_in(spec, shape):
        got = pooled(spec, with_value(samples, position, np.nan))
        assert np.isnan(got[0][reach]).all(), position
        assert_unchanged(spec, got, before, reach)


@each_of(OTHER_EXAMPLES)
@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_an_infinity_gives_what_the_docstring_says(spec: PoolSpec, shape: tuple[int, ...], value: float) -> None:
    samples = base_of(spec, shape)
    before = pooled(spec, samples)
    check = found(INFINITIES, layer_of(spec))[0]
    for position, reach in positions_in(spec, shape):
        got = pooled(spec, with_value(samples, position, value))
        largest = pooled(spec, with_value(samples, position, np.copysign(LARGEST, value)))
        if reach.any():
            check(spec, value, got[0][reach], largest[0][reach])
        assert_unchanged(spec, got, before, reach)


@each_of(SUMS)
def test_infinities_of_both_signs_give_nan(spec: PoolSpec, shape: tuple[int, ...]) -> None:
    samples = base_of(spec, shape)
    first, reach = positions_in(spec, shape)[0]
    infinite = with_value(samples, first, np.inf)
    # The sum of two results is NaN where both infinities are in the sum.
    for axis in range(1, len(shape)):
        for step in (-1, 1):
            second = list(first)
            second[axis] = min(max(second[axis] + step, 0), shape[axis] - 1)
            if tuple(second) == first:
                continue
            both = reach & reach_of(spec, samples, tuple(second))
            got = pooled(spec, with_value(infinite, tuple(second), -np.inf))
            np.testing.assert_array_equal(np.isnan(got[0]), both)


@each_of(SEQUENCES)
def test_a_sequence_has_the_results_of_its_layers(spec: Any, shape: tuple[int, ...]) -> None:
    samples = values_of((2, *shape))
    for value in (np.nan, np.inf, -np.inf):
        changed = with_value(samples, tuple(size // 2 for size in shape), value)
        expected = changed
        for layer in spec.layers:
            # A vector, as a pool head takes it.
            vectors_as_planes = (1,) * (spec.spatial_dims + 2 - expected.ndim)
            expected = pooled(layer, expected.reshape(*expected.shape, *vectors_as_planes))
        assert pooled(spec, changed).tobytes() == expected.tobytes()


@each_of(HEADS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_pool_head_gives_nan_in_the_result_of_the_sample_alone(
    spec: PoolSpec, shape: tuple[int, ...], value: float
) -> None:
    samples = values_of((2, *shape))
    before = pooled(spec, samples)
    for number in range(0, samples[0].size, 7):
        got = pooled(spec, with_value(samples, position_of(number, shape), value))
        assert got[1].tobytes() == before[1].tobytes()
        if np.isnan(value):
            assert np.isnan(got[0]).any()
