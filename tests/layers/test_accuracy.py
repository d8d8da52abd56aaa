"""Every layer agrees with its float64 reference for planes and values of all sizes: see `assert_agrees`."""

from collections.abc import Callable, Mapping
from random import Random
from typing import Any

import numpy as np
import pytest
from tests.layers.drawn_specs import Draw, drawn_spec
from tests.layers.float64_references import POSITIVE, REFERENCES, assert_agrees

from poolservice.specs import LAYERS

#: The channels and the spatial shape of samples, by the number of dimensions.
SIZES: Mapping[str, Mapping[int, tuple[int, ...]]] = {
    "one value": {1: (5, 1), 2: (5, 1, 1), 3: (5, 1, 1, 1)},
    "one row": {1: (2, 997), 2: (2, 1, 997), 3: (2, 1, 1, 997)},
    "one column": {1: (2, 64), 2: (2, 499, 1), 3: (2, 499, 1, 1)},
}
LARGE: Mapping[str, Mapping[int, tuple[int, ...]]] = {
    "large planes": {1: (2, 50_176), 2: (2, 224, 224), 3: (2, 28, 40, 45)},
    "many channels": {1: (2048, 49), 2: (2048, 7, 7), 3: (2048, 3, 4, 4)},
}
#: Values of numbers with a standard normal distribution.
VALUES: Mapping[str, Callable[[Any], Any]] = {
    "normal": lambda n: n,
    "tiny": lambda n: n * 1e-30,
    "large": lambda n: n * 1e4,
    "largest": lambda n: n / np.abs(n).max() * 3.4e38,
    "constant": lambda n: np.broadcast_to(n[(slice(None), *(slice(1),) * (n.ndim - 1))], n.shape),
    "of both signs": lambda n: np.where(np.arange(n.size).reshape(n.shape) % 2, 1, -1) * (1 + 1e-3 * n),
    "offset": lambda n: 1000 + n,
    "of all sizes": lambda n: n * 10.0 ** np.clip(12 * np.roll(n, 1), -30, 30),
}
# These overflow nowhere. The docstrings of the others say what must be in the range of the dtype.
OF_ANY_RANGE = frozenset(
    {
        *("gem_pool", "ggem_pool", "power_avg_pool", "lse_pool", "lse_plus", "soft_pool", "em_pool", "edscw_pool"),
        *("alpha_softmax_pool", "ada_pool", "stochastic_pool", "blur_pool", "max_blur_pool", "mac", "rmac"),
        *("median_pool", "rank_pool", "masked_max_pool", "masked_gem_pool", "roi_pool", "max_unpool"),
    }
)
# The squares of tiny values must be in the range of the dtype, too.
OF_SQUARES = frozenset({"covariance_pool", "bilinear_pool", "compact_bilinear_pool"})
# The references visit position by position, or frequency by frequency.
SLOW = frozenset({"scda", "avg_unpool", "spectral_pool"})


def suits(operator: str, values: str) -> bool:
    if values == "largest":
        return operator in OF_ANY_RANGE
    if operator == "pool_head":
        return values in ("normal", "constant")
    if operator in ("lse_pool", "lse_plus") and values == "of all sizes":
        # The largest value of the plane, to which the error is relative, may be in no window.
        return False
    return operator not in OF_SQUARES or values not in ("tiny", "of all sizes")


def check(operator: str, dims: int, shape: tuple[int, ...]) -> None:
    for values, scaled in VALUES.items():
        if not suits(operator, values):
            continue
        random = Random(f"{operator} {dims} {values} {shape}")
        spec, drawn = drawn_spec(operator, Draw(random, dims, shape[0], shape[1:]))
        sample = scaled(np.random.default_rng(random.getrandbits(32)).standard_normal(drawn)).astype(np.float32)
        assert_agrees(spec, abs(sample) if operator in POSITIVE else sample)


each_layer = pytest.mark.parametrize(("operator", "dims"), [key for key in LAYERS if key[0] in REFERENCES])


@each_layer
@pytest.mark.parametrize("size", SIZES)
def test_values_of_every_size_agree_in_narrow_planes(operator: str, dims: int, size: str) -> None:
    check(operator, dims, SIZES[size][dims])


@pytest.mark.long
@each_layer
@pytest.mark.parametrize("size", LARGE)
def test_values_of_every_size_agree_in_large_samples(operator: str, dims: int, size: str) -> None:
    channels, *spatial = LARGE[size][dims]
    if operator in OF_SQUARES:
        channels = min(channels, 200)
    if operator in SLOW:
        spatial = [min(length, 40) for length in spatial]
    check(operator, dims, (channels, *spatial))
