"""The section Range of every layer's docstring, checked with the largest values that a dtype has."""

from typing import Any

import numpy as np
import pytest
from tests.layers.classic_examples import ALL, layer_of
from tests.layers.infinity_checks import LARGEST
from tests.layers.test_docstrings import sections_of, sentences_of
from tests.layers.test_every_layer import pooled, values_of
from tests.layers.test_not_a_number import each_of

from poolservice.specs import PoolSpec

NOTHING_OVERFLOWS = "nothing overflows"
#: How the sentence goes on where it holds up to the largest number of each dtype.
ALWAYS = f"{NOTHING_OVERFLOWS}. "
#: How it goes on where rounding can take the very largest numbers to infinity.
UP_TO = " up to magnitudes of 3.4e38, or for float64 of 1.79e308. Between there and the largest number, rounding may "
LIMITS = {"float16": np.finfo(np.float16).max, "float32": np.float32(3.4e38), "float64": 1.79e308}
VALUES_OF_THE_INPUT = "each value of the result is a value of the input"
#: How large values may be where their sums, or the sums of their powers, must be in the range of float32.
SUMS = 1e33
POWERS = {"covariance_pool": 1e16, "pool_head": 1e16, "lp_pool": 1e11, "crow": 1e11}
#: The layers that are defined for values of 0 or more; LPPool for an odd power.
OF_POSITIVE_VALUES = ("crow", "lp_pool")


def range_of(spec: PoolSpec) -> str:
    return sentences_of(sections_of(layer_of(spec))["Range"])


def extremes_of(shape: tuple[int, ...], largest: Any = LARGEST) -> dict[str, Any]:
    """Return samples of the largest values: all of one sign, of both signs, one among small ones, and very small."""
    values = values_of((1, *shape), np.asarray(largest).dtype)
    one = values.copy()
    one.reshape(-1)[values.size // 2] = largest
    return {
        "positive": np.full_like(values, largest),
        "negative": np.full_like(values, -largest),
        "both": np.copysign(largest, values),
        "one": one,
        "small": values * np.finfo(values.dtype).tiny / 1000,
    }


def specs_with(sentence: str) -> list[tuple[PoolSpec, tuple[int, ...]]]:
    return [(spec, shape) for spec, shape in ALL if range_of(spec).startswith(sentence)]


@each_of(specs_with(NOTHING_OVERFLOWS))
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_nothing_overflows_where_the_docstring_says_so(spec: PoolSpec, shape: tuple[int, ...], dtype: Any) -> None:
    always = range_of(spec).startswith(ALWAYS)
    assert always != (UP_TO in range_of(spec))
    largest = np.finfo(dtype).max if always else LIMITS[np.dtype(dtype).name]
    for name, samples in extremes_of(shape, dtype(largest)).items():
        assert np.isfinite(pooled(spec, samples)).all(), name


@each_of(specs_with(VALUES_OF_THE_INPUT))
def test_results_are_values_of_the_input_where_the_docstring_says_so(spec: PoolSpec, shape: tuple[int, ...]) -> None:
    has_zeros = range_of(spec).startswith(f"{VALUES_OF_THE_INPUT}, or 0.")
    for name, samples in extremes_of(shape).items():
        possible = np.append(samples, 0) if has_zeros else samples
        assert np.isin(pooled(spec, samples), possible).all(), name


OTHERS = [example for example in ALL if example not in specs_with(NOTHING_OVERFLOWS) + specs_with(VALUES_OF_THE_INPUT)]


@each_of([(spec, shape) for spec, shape in OTHERS if spec.operator != "sequential"])
def test_only_sums_overflow(spec: Any, shape: tuple[int, ...]) -> None:
    sums_products = spec.operator.endswith("bilinear_pool") and not spec.l2_normalize
    largest = 1e16 if sums_products else POWERS.get(spec.operator, SUMS)
    for name, samples in extremes_of(shape, np.float32(largest)).items():
        got = pooled(spec, np.abs(samples) if spec.operator in OF_POSITIVE_VALUES else samples)
        assert np.isfinite(got).all(), name
    if spec.operator not in POWERS:
        # float64 holds the sums of the largest float32.
        for name, samples in extremes_of(shape).items():
            assert np.isfinite(pooled(spec, samples.astype(np.float64))).all(), name
