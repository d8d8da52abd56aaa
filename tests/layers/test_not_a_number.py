"""NaN and infinities change the result of every layer as the layer's docstring says, and change nothing else.

The section NaN of a docstring consists of sentences of `nan_reaches` and `infinity_checks`. The first one says which
results become NaN: those are compared with the definition of the windows, tiles and regions. All others must keep their
bits, or their values if the docstring says that the rounding may change. The second one says what an infinity gives.
"""

import functools
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from tests.layers.classic_examples import ALL, layer_of
from tests.layers.infinity_checks import INFINITIES, LARGEST, OF_NAN, OTHERS, ROUNDINGS, the_same
from tests.layers.nan_reaches import REACHES, Array, Position, base_of, bits, position_of, with_value
from tests.layers.test_docstrings import sections_of, sentences_of
from tests.layers.test_every_layer import pooled, values_of

from poolservice.specs import LAYERS, LPPool1d, LPPool2d, LPPool3d, PoolSpec
from poolservice_server.operator_shapes import output_shape
from poolservice_server.pool_stage import PoolStage
from poolservice_server.pooling import run_on_tensors

Entry = TypeVar("Entry")

#: The layers whose docstring leaves open which results a NaN reaches: other layers and learned weights decide it.
OF_LAYERS = "the first layer decides what a NaN does; each next layer gets the result of the one before."
OF_WEIGHTS = "a NaN gives NaN in some or all values of its sample's result. An infinity may do so."


def documentation_of(layer: type[PoolSpec]) -> str:
    return sentences_of(sections_of(layer)["NaN"])


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
def test_a_nan_reaches_the_same_results_in_a_whole_batch_as_on_a_gpu(spec: PoolSpec, shape: tuple[int, ...]) -> None:
    stage = PoolStage.of((spec,), shape[0])

    def nans(samples: Array) -> Array:
        planes = torch.from_numpy(samples.reshape(-1, *shape[1:]))
        values, _ = run_on_tensors(stage, planes)[0]
        return np.isnan(values.numpy()).reshape(2, *output_shape(spec, shape))

    samples = base_of(spec, shape)
    # LPPool gives NaN for odd powers of negative values, too.
    before = nans(samples)
    for position, reach in positions_in(spec, shape):
        after = nans(with_value(samples, position, np.nan))
        np.testing.assert_array_equal(after[0], before[0] | reach)
        np.testing.assert_array_equal(after[1], before[1])


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


def infinite_parts(shape: tuple[int, ...]) -> list[tuple[Array, Array]]:
    """Return pairs of masks of a sample: two neighbours, and both sides of a cut, along each spatial dimension."""
    places = np.indices(shape)
    center = [place == size // 2 for place, size in zip(places[1:], shape[1:], strict=True)]
    pairs = []
    for axis, size in enumerate(shape[1:]):
        line = np.logical_and.reduce([np.ones(shape, bool), *center[:axis], *center[axis + 1 :]])
        place = places[axis + 1]
        # One of two cuts lies within a window, even if windows of two values do not overlap.
        for cut in (size // 2, size // 2 + 1):
            pairs += [(line & (place == cut - 1), line & (place == cut)), (place < cut, place >= cut)]
    return pairs


def nans_of_both_signs(spec: PoolSpec, shape: tuple[int, ...]) -> bool:
    """Return True if infinities of both signs give NaN where those of one sign do not.

    Checks that such a result has opposite infinities with the positive and with the negative infinities alone, and that
    no other result has.
    """
    samples = base_of(spec, shape)
    found_any = False
    for first, second in infinite_parts(shape):
        alone, other, both = samples.copy(), samples.copy(), samples.copy()
        alone[0][first] = both[0][first] = np.inf
        other[0][second] = both[0][second] = -np.inf
        positive, negative, got = (pooled(spec, changed)[0] for changed in (alone, other, both))
        nans = np.isnan(got) & ~np.isnan(positive) & ~np.isnan(negative)
        opposite = np.isinf(positive) & (negative == -positive)
        if isinstance(spec, LPPool1d | LPPool2d | LPPool3d) and spec.norm_type % 2 == 1 and not spec.absolute:
            # The root of an odd power loses the sign.
            opposite = np.isinf(positive) & np.isinf(negative)
        np.testing.assert_array_equal(nans, opposite)
        found_any |= bool(nans.any())
    return found_any


CLEAR = [example for example in OTHER_EXAMPLES if found(INFINITIES, layer_of(example[0]))[0] not in OF_NAN]


@pytest.mark.parametrize("operator", sorted({spec.operator for spec, _ in CLEAR}))
def test_infinities_of_both_signs_give_nan_where_the_docstring_says_so(operator: str) -> None:
    # The examples of one operator differ in parameters and dimensions, and not each of them can show the NaN.
    examples = [(spec, shape) for spec, shape in CLEAR if spec.operator == operator]
    give_nan = [nans_of_both_signs(spec, shape) for spec, shape in examples]
    assert {"of both signs" in documentation_of(layer_of(spec)) for spec, _ in examples} == {any(give_nan)}


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
