"""Checks of the results that an infinity reaches, by the sentences of the docstrings.

Each gets the spec, the infinity, the results that it reaches, and those of the largest value in its place.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from tests.layers.nan_reaches import Array, bits

#: The largest magnitude that tests use. It is so far below the largest float32 that rounding does not reach infinity.
LARGEST = np.float32(3e38)


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
    if spec.norm_type == 0.5 and not spec.absolute and value < 0:
        assert np.isnan(got).all()
    else:
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
    "An infinity is a value like any other.": as_a_value,
    "So is an infinity.": as_a_value,
    "So does an infinity.": not_a_number,
    "So does an infinity among the maxima.": not_a_number_if_largest,
    "An infinity of either sign gives inf.": positive,
    "inf gives inf, and -inf counts like any other low value.": positive_or_low,
    "For a positive p, an infinity gives inf, or for p = 1 without `absolute` itself.": power_sum,
    "An infinity gives the same infinity, unless the maximum leaves it out.": the_same_or_left_out,
    "An infinity gives the same infinity, unless the maximum leaves it out, and infinite maxima of both signs give "
    "NaN.": the_same_or_left_out,
    "An infinity among the values that count gives the same infinity, and infinities of both signs among them give "
    "NaN.": the_same_if_it_counts,
    "An infinity gives an infinity, unless its weight is 0, and infinite terms of both signs give NaN.": (
        the_same_if_it_counts
    ),
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

#: The checks of layers for which a single infinity may give NaN anywhere, so that a second one adds nothing.
OF_NAN = (not_a_number, not_a_number_if_largest, not_finite, infinite_or_normalized)

#: Sentences that add nothing to these tables. The test of infinities of both signs reads those about them.
OTHERS = {
    "Infinities of both signs give NaN.",
    "Infinities of both signs give NaN as a mean.",
    'With "avg", infinities of both signs give NaN.',
    "Without `absolute`, -inf gives NaN for p = 0.5, and infinities of both signs for an odd p.",
    "A negative `divisor_override` changes their sign.",
    "The authors' code gives 0 instead of NaN.",
}
