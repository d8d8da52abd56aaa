"""The power and exponential means against the formulas of their papers, in float64, window by window."""

import math
from collections.abc import Callable
from dataclasses import fields
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.layers.test_every_layer import pooled

from poolservice.errors import InvalidRequest
from poolservice.specs import (
    LAYERS,
    AdaPool1d,
    AdaPool2d,
    AlphaSoftmaxPool2d,
    EDSCWPool2d,
    EMPool2d,
    GeMPool1d,
    GeMPool2d,
    GGeMPool2d,
    LPPool1d,
    LPPool2d,
    LPPool3d,
    LsePlus2d,
    LSEPool1d,
    LSEPool2d,
    PoolSpec,
    PowerAvgPool2d,
    SoftPool1d,
    SoftPool2d,
)
from poolservice_server.operator_shapes import output_shape

Reference = Callable[[np.ndarray, Any, int, tuple[int, ...]], float]

CASES = 12


def windows(plane: np.ndarray, spec: Any, out: tuple[int, ...]) -> Any:
    """Yield the position and the values of each window."""
    kernel_size, stride, padding, _, _ = spec.window_in(plane.shape)
    for position in np.ndindex(out):
        starts = [place * step - pad for place, step, pad in zip(position, stride, padding, strict=True)]
        covered = tuple(slice(max(start, 0), start + size) for start, size in zip(starts, kernel_size, strict=True))
        yield position, plane[covered].reshape(-1)


def expected(spec: Any, samples: np.ndarray, reference: Reference) -> np.ndarray:
    samples = samples.astype(np.float64)
    result = np.empty(output_shape(spec, samples.shape))
    for sample, channel in np.ndindex(samples.shape[:2]):
        for position, values in windows(samples[sample, channel], spec, result.shape[2:]):
            result[(sample, channel, *position)] = reference(values, spec, channel, position)
    return result


def of_channel(numbers: Any, channel: int) -> float:
    return float(numbers[channel]) if isinstance(numbers, tuple) else float(numbers)


def power_mean(x: np.ndarray, p: float) -> float:
    scale = x.max() or 1.0
    return float(scale * np.mean((x / scale) ** p) ** (1 / p))


def scaled_norm(x: np.ndarray, p: float) -> float:
    scale = np.abs(x).max() if p > 0 else np.abs(x).min()
    return float(scale * ((np.abs(x) / scale) ** p).sum() ** (1 / p))


def softmax_mean(x: np.ndarray, alpha: float) -> float:
    weights = np.exp(alpha * x - (alpha * x).max())
    return float((x * weights).sum() / weights.sum())


def log_mean_exp(x: np.ndarray, r: float) -> float:
    # The exponents may be so small that their exponentials are 1.
    return float(x.max() + np.log1p(np.expm1(r * (x - x.max())).mean()) / r)


def dice_weighted_mean(x: np.ndarray) -> float:
    a = x.mean()
    weights = np.exp(2 * np.abs(x * a) / (x**2 + a**2))
    return float((x * weights).sum() / weights.sum())


def ada_mean(x: np.ndarray, spec: Any, channel: int, position: tuple[int, ...]) -> float:
    beta = of_channel(spec.beta, channel) if spec.beta_map is None else spec.beta_map.array[position]
    return float(beta * dice_weighted_mean(x) + (1 - beta) * softmax_mean(x, 1))


REFERENCES: dict[str, Reference] = {
    "gem_pool": lambda x, spec, channel, _: power_mean(np.maximum(x, spec.eps), of_channel(spec.p, channel)),
    "ggem_pool": lambda x, spec, channel, _: power_mean(np.maximum(x, spec.eps), spec.p[channel // 2]),
    "power_avg_pool": lambda x, spec, channel, _: power_mean(np.abs(x), of_channel(spec.p, channel)),
    "lp_pool": lambda x, spec, *_: scaled_norm(x, spec.norm_type),
    "soft_pool": lambda x, *_: softmax_mean(x, 1),
    "em_pool": lambda x, *_: softmax_mean(x, 1),
    "alpha_softmax_pool": lambda x, spec, channel, _: softmax_mean(x, of_channel(spec.alpha, channel)),
    "lse_pool": lambda x, spec, channel, _: log_mean_exp(x, of_channel(spec.r, channel)),
    "lse_plus": lambda x, spec, channel, _: log_mean_exp(x, of_channel(spec.r, channel)),
    "edscw_pool": lambda x, *_: dice_weighted_mean(x),
    "ada_pool": ada_mean,
}
MAGNITUDES = {"gem_pool", "ggem_pool", "power_avg_pool", "lp_pool"}


def log_uniform(random: Random, low: float, high: float) -> float:
    return math.exp(random.uniform(math.log(low), math.log(high)))


def random_spec(random: Random, operator: str, dims: int, channels: int) -> Any:
    kernel = tuple(random.randint(1, 4) for _ in range(dims))
    signed = random.choice((1.0, -1.0)) * log_uniform(random, 0.1, 1000)
    numbers = {
        "p": lambda: log_uniform(random, 0.05, 1000),
        "r": lambda: log_uniform(random, 0.001, 1000),
        "alpha": lambda: random.choice((0.0, signed)),
        "beta": random.random,
    }
    parameters: dict[str, Any] = {
        "norm_type": log_uniform(random, 0.1, 1000),
        "absolute": True,
        "eps": random.choice((0.0, 1e-6, 0.5)),
        **{name: tuple(number() for _ in range(channels)) for name, number in numbers.items()},
    }
    if operator == "ggem_pool":
        parameters["p"] = parameters["p"][: channels // 2]
    elif random.random() < 0.5:
        parameters |= {name: number() for name, number in numbers.items()}
    if operator == "lp_pool" or random.random() < 0.75:
        parameters |= {
            "kernel_size": kernel,
            "stride": tuple(random.randint(1, 4) for _ in range(dims)),
            "padding": tuple(random.randint(0, size // 2) for size in kernel),
            "ceil_mode": random.random() < 0.5,
        }
    layer = LAYERS[operator, dims]
    own = {field.name for field in fields(layer)}
    return layer(**{name: value for name, value in parameters.items() if name in own})


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("operator", REFERENCES)
def test_an_operator_agrees_with_its_formula(operator: str, dims: int) -> None:
    random = Random(f"{operator} {dims}")
    generator = np.random.default_rng(random.getrandbits(32))
    for _ in range(CASES):
        spec = random_spec(random, operator, dims, 4)
        spatial = tuple(random.randint(5, 8) for _ in range(dims))
        scale = random.choice((1e-3, 1, 1, 30))
        samples = (generator.standard_normal((2, 4, *spatial)) * scale).astype(np.float32)
        for dtype, precision in ((np.float32, 1e-5), (np.float64, 1e-10)):
            # Terms with different signs may cancel.
            cancelled = 0.0 if operator in MAGNITUDES else precision / 10 * float(np.abs(samples).max())
            got = pooled(spec, samples.astype(dtype))
            np.testing.assert_allclose(
                got, expected(spec, samples, REFERENCES[operator]), precision, cancelled, err_msg=repr(spec)
            )


def test_beta_map_weighs_each_output_position() -> None:
    samples = np.random.default_rng(1).standard_normal((2, 3, 4, 6)).astype(np.float32)
    spec = AdaPool2d(2, beta_map=[[0.0, 0.25, 0.5], [0.75, 1.0, 0.1]])
    np.testing.assert_allclose(pooled(spec, samples), expected(spec, samples, ada_mean), 1e-5, 1e-6)


@pytest.mark.parametrize("p", [0.05, 1.0, 3.0, 1000.0, 1e6])
@pytest.mark.parametrize("window", [{}, {"kernel_size": 2}, {"kernel_size": 3, "stride": 1, "padding": 1}])
def test_power_means_neither_overflow_nor_lose_values(p: float, window: Any) -> None:
    exponents = np.random.default_rng(2).uniform(-37, 38.5, (2, 3, 6, 6))
    samples = (10.0**exponents).astype(np.float32)
    for spec, reference in (
        (GeMPool2d(p, eps=0.0, **window), lambda x, *_: power_mean(x, p)),
        (PowerAvgPool2d(p, **window), lambda x, *_: power_mean(x, p)),
    ):
        np.testing.assert_allclose(pooled(spec, samples), expected(spec, samples, reference), 1e-5)


def test_one_window_that_reaches_into_the_padding_is_not_the_plane() -> None:
    # The window is as large as the plane, but starts one value before it.
    mean = pooled(GeMPool1d(1.0, kernel_size=4, stride=10, padding=1), np.array([[[1, 2, 3, 9]]], np.float32))
    assert mean.tolist() == [[[2.0]]]


def test_gem_of_a_window_without_positive_values_is_eps() -> None:
    samples = -np.ones((1, 1, 4, 4), np.float32)
    np.testing.assert_allclose(pooled(GeMPool2d(), samples), 1e-6, 1e-5)
    np.testing.assert_allclose(pooled(GeMPool2d(1000.0), samples), 1e-6, 1e-5)
    assert pooled(GeMPool2d(eps=0.0), samples).item() == 0.0


@pytest.mark.parametrize("kernel_size", [None, 2])
@pytest.mark.parametrize("scale", [1e4, 1e38])
def test_exponential_means_do_not_overflow(scale: float, kernel_size: int | None) -> None:
    samples = (np.random.default_rng(3).uniform(-3, 3, (2, 3, 4, 4)) * scale).astype(np.float32)
    for spec in (
        SoftPool2d(kernel_size),
        EMPool2d(kernel_size),
        AlphaSoftmaxPool2d(10.0, kernel_size),
        AlphaSoftmaxPool2d(-10.0, kernel_size),
        LSEPool2d(1.0, kernel_size),
        LsePlus2d(10.0, kernel_size),
        EDSCWPool2d(kernel_size),
        AdaPool2d(kernel_size),
    ):
        reference = expected(
            spec, samples / scale if spec.operator == "edscw_pool" else samples, REFERENCES[spec.operator]
        )
        if spec.operator == "edscw_pool":
            reference *= scale
        np.testing.assert_allclose(pooled(spec, samples), reference, 2e-5, err_msg=repr(spec))


@pytest.mark.parametrize("kernel_size", [None, (2, 1), (3, 2)])
@pytest.mark.parametrize("scale", [1.0, 1e4, 1e30, 1e38])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_alpha_of_0_gives_the_mean_of_values_of_any_size(kernel_size: Any, scale: float, dtype: Any) -> None:
    samples = (np.random.default_rng(6).uniform(0, 3, (1, 2, 5, 4)) * scale).astype(dtype)
    for alpha in (0.0, (0.0, 0.0), (0.0, -0.0)):
        spec = AlphaSoftmaxPool2d(alpha, kernel_size, padding=(1, 0) if kernel_size else 0)
        reference = expected(spec, samples, lambda x, *_: float((x / scale).mean() * scale))
        np.testing.assert_allclose(pooled(spec, samples), reference, 1e-6)


@pytest.mark.parametrize("kernel_size", [None, 2])
@pytest.mark.parametrize("small", [1e-1, 1e-2, 1e-4, 1e-30])
def test_small_values_keep_their_digits_beside_a_channel_of_large_ones(kernel_size: int | None, small: float) -> None:
    samples = np.random.default_rng(7).uniform(0, 1, (1, 3, 8, 8)).astype(np.float32)
    samples[0, 0] *= 3
    samples[0, 1] *= small
    for spec in (LSEPool2d(1.0, kernel_size), LSEPool2d((1.0, 0.5, 2.0), kernel_size), LsePlus2d(10.0, kernel_size)):
        reference = expected(spec, samples, REFERENCES[spec.operator])
        np.testing.assert_allclose(pooled(spec, samples), reference, 2e-6)


def test_the_logarithm_of_a_mean_keeps_its_digits_close_to_zero() -> None:
    for scale in (1e-6, 0.05, 0.1, 0.2, 1.0):
        samples = np.random.default_rng(6).uniform(0, 1, (1, 3, 40, 40)).astype(np.float32)
        samples[0, 1] *= scale
        for spec in (LSEPool2d(1.0), LSEPool2d((1.0, 0.3, 0.01))):
            reference = expected(spec, samples, REFERENCES["lse_pool"])
            np.testing.assert_allclose(pooled(spec, samples), reference, 1e-5)


@pytest.mark.parametrize("spec", [SoftPool1d(), LSEPool1d(1.0)])
def test_means_of_four_million_values_are_precise(spec: PoolSpec) -> None:
    samples = np.random.default_rng(0).random((1, 1, 2**22), dtype=np.float32)
    reference = expected(spec, samples, REFERENCES[spec.operator])
    np.testing.assert_allclose(pooled(spec, samples), reference, 1e-5)


def test_soft_pool_of_large_values_is_their_maximum() -> None:
    samples = np.array([[[[1e4, -1e4], [-1e4, 9e3]]]], np.float32)
    assert pooled(SoftPool2d(), samples).item() == 1e4
    assert pooled(SoftPool2d(2), samples).item() == 1e4
    assert pooled(SoftPool2d(2), -samples).item() == 1e4
    largest = np.full((1, 1, 4, 4), np.finfo(np.float32).max)
    assert pooled(SoftPool2d(2), largest).tolist() == largest[:, :, :2, :2].tolist()


@pytest.mark.parametrize("operator", REFERENCES)
def test_a_nan_gives_nan_in_its_windows_alone(operator: str) -> None:
    parameters: Any = {"lp_pool": {"norm_type": 3.0, "absolute": True}, "ggem_pool": {"p": (2.0,)}}.get(operator, {})
    samples = np.ones((1, 2, 4, 4), np.float32)
    samples[0, 1, 1, 1] = np.nan
    layer: Any = LAYERS[operator, 2]
    got = pooled(layer(kernel_size=2, **parameters), samples)
    assert np.argwhere(np.isnan(got)).tolist() == [[0, 1, 0, 0]]
    if operator != "lp_pool":
        assert np.isnan(pooled(layer(**parameters), samples)).reshape(-1).tolist() == [False, True]


def test_lse_of_infinity_is_infinity() -> None:
    samples = np.array([[[np.inf, 1, np.inf, np.inf, -np.inf, 2, -np.inf, -np.inf]]], np.float32)
    np.testing.assert_allclose(pooled(LSEPool1d(1.0, 2), samples), [[[np.inf, np.inf, 2 - math.log(2), -np.inf]]], 1e-6)


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, 4.5])
def test_gem_is_the_torch_expression_of_its_authors(p: float) -> None:
    x = torch.randn(2, 3, 7, 7, generator=torch.Generator().manual_seed(4))
    published = F.avg_pool2d(x.clamp(min=1e-6).pow(p), 7).pow(1 / p)
    np.testing.assert_allclose(pooled(GeMPool2d(p), x.numpy()), published, 1e-5)


def test_lse_plus_is_the_layer_of_timm() -> None:
    x = torch.randn(2, 3, 7, 7, generator=torch.Generator().manual_seed(5))
    maximum = F.adaptive_max_pool2d(x, 1)
    published = maximum + torch.log(torch.exp(10.0 * (x - maximum)).mean(dim=(2, 3), keepdim=True)) / 10.0
    np.testing.assert_allclose(pooled(LsePlus2d(), x.numpy()), published, 1e-5)
    np.testing.assert_array_equal(pooled(LsePlus2d(), x.numpy()), pooled(LSEPool2d(10.0), x.numpy()))


def test_special_parameters_give_other_operators() -> None:
    samples = np.random.default_rng(6).standard_normal((2, 4, 6, 6)).astype(np.float32)

    def same(one: PoolSpec, other: PoolSpec) -> None:
        np.testing.assert_allclose(pooled(one, samples), pooled(other, samples), 1e-5, 1e-6)

    same(AlphaSoftmaxPool2d(1.0, 2), SoftPool2d(2))
    same(EMPool2d(3), SoftPool2d(3))
    same(AdaPool2d(2, beta=0.0), EMPool2d(2))
    same(AdaPool2d(2, beta=1.0), EDSCWPool2d(2))
    same(GGeMPool2d((2.0, 5.0)), GeMPool2d((2.0, 2.0, 5.0, 5.0)))
    np.testing.assert_allclose(pooled(AlphaSoftmaxPool2d(0.0), samples)[..., 0, 0], samples.mean((2, 3)), 1e-5, 1e-6)


def test_the_norm_of_infinite_power_is_the_largest_magnitude() -> None:
    samples = np.random.default_rng(7).standard_normal((2, 3, 6, 6)).astype(np.float32)
    got = pooled(LPPool2d(math.inf, 2, absolute=True), samples)
    np.testing.assert_array_equal(got, F.max_pool2d(torch.from_numpy(samples).abs(), 2))


@pytest.mark.parametrize(("norm_type", "norm"), [(1e37, 3.0), (1e39, 3.0), (-1e37, 0.5), (-1e39, 0.5)])
def test_a_norm_of_huge_power_is_the_largest_or_the_smallest_magnitude(norm_type: float, norm: float) -> None:
    for dtype in (np.float32, np.float64):
        samples = np.array([[[0.5, -3.0]]], dtype)
        assert pooled(LPPool1d(norm_type, 2, absolute=True), samples).item() == pytest.approx(norm, 1e-6)


@pytest.mark.parametrize("norm_type", [-3.0, 0.5, 1000.0])
def test_a_norm_overflows_only_if_its_value_does(norm_type: float) -> None:
    samples = np.array([[[3e38, 1e30, 1e-30, 2e-30, 0.5, -0.25]]], np.float32)
    expected_norms = expected(LPPool1d(norm_type, 2, absolute=True), samples, lambda x, *_: scaled_norm(x, norm_type))
    np.testing.assert_allclose(pooled(LPPool1d(norm_type, 2, absolute=True), samples), expected_norms, 1e-5)


@pytest.mark.parametrize("dtype", [np.float16, np.uint8, np.uint16, np.int64])
def test_a_norm_takes_every_dtype(dtype: Any) -> None:
    samples = np.random.default_rng(8).integers(0, 9, (2, 2, 4, 4, 4)).astype(dtype)
    got = pooled(LPPool3d(2.5, 2, absolute=True), samples)
    assert got.dtype == (np.float16 if dtype == np.float16 else np.float32)
    wide = pooled(LPPool3d(2.5, 2, absolute=True), samples.astype(np.float64))
    np.testing.assert_allclose(got, wide, 1e-3 if dtype == np.float16 else 1e-5)


def test_a_sample_has_the_bits_of_its_norm_whatever_its_batch() -> None:
    samples = np.random.default_rng(9).standard_normal((3, 4, 7, 7)).astype(np.float32)
    samples[1] *= 1e30
    spec = LPPool2d(2.5, 2, absolute=True)
    together = pooled(spec, samples)
    for number in range(3):
        assert pooled(spec, samples[number : number + 1]).tobytes() == together[number : number + 1].tobytes()


WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "power 0": (lambda: GeMPool2d(0.0), "p: must be from 0.05 to 1e+06; got 0"),
    "no power": (lambda: GeMPool2d(()), "p: must have at least one number; got none"),
    "powers of words": (
        lambda: GeMPool2d("x"),  # type: ignore[arg-type]
        "p: must be a number, or a list or tuple of one number for each channel; got 'x'",
    ),
    "powers of groups of words": (
        lambda: GGeMPool2d("x"),  # type: ignore[arg-type]
        "p: must be a number, or a list or tuple of one number for each group of channels; got 'x'",
    ),
    "one wrong power": (lambda: GGeMPool2d((2.0, -1.0)), "p: must be from 0.05 to 1e+06; got -1"),
    "a power below the least": (lambda: PowerAvgPool2d(0.04), "p: must be from 0.05 to 1e+06; got 0.04"),
    "a power above the largest": (lambda: PowerAvgPool2d(2e6), "p: must be from 0.05 to 1e+06; got 2e+06"),
    "a power barely above the largest": (lambda: GeMPool2d(1000001), "p: must be from 0.05 to 1e+06; got 1000001"),
    "a power barely below the least": (
        lambda: GeMPool2d(0.04999999999),
        "p: must be from 0.05 to 1e+06; got 0.04999999999",
    ),
    "eps above the largest": (lambda: GGeMPool2d((2.0,), eps=2e30), "eps: must be from 0 to 1e+30; got 2e+30"),
    "a sharpness below the least": (lambda: LsePlus2d(5e-4), "r: must be from 0.001 to 1e+06; got 0.0005"),
    "a sharpness above the largest": (lambda: LsePlus2d(2e6), "r: must be from 0.001 to 1e+06; got 2e+06"),
    "beta map below 0": (
        lambda: AdaPool1d(2, beta_map=[-0.5, 0.5]),
        "beta_map: must have numbers from 0 to 1; got -0.5 to 0.5",
    ),
    "negative eps": (lambda: GeMPool1d(eps=-1.0), "eps: must be from 0 to 1e+30; got -1"),
    "sharpness 0": (lambda: LSEPool2d(0.0), "r: must be from 0.001 to 1e+06; got 0"),
    "infinite alpha": (lambda: AlphaSoftmaxPool2d(math.inf), "alpha: must be from -1e+06 to 1e+06; got inf"),
    "alpha of NaN": (lambda: AlphaSoftmaxPool2d(math.nan), "alpha: must be from -1e+06 to 1e+06; got nan"),
    "beta above 1": (lambda: AdaPool1d(beta=2.0), "beta: must be from 0 to 1; got 2"),
    "beta map above 1": (
        lambda: AdaPool1d(2, beta_map=[0.5, 2]),
        "beta_map: must have numbers from 0 to 1; got 0.5 to 2",
    ),
    "a constant beta map": (
        lambda: AdaPool1d(2, beta_map=[1.5, 1.5]),
        "beta_map: must have numbers from 0 to 1; got 1.5",
    ),
    "beta map of words": (lambda: AdaPool1d(2, beta_map="x"), "beta_map: must be an array, a tensor"),
    "beta map of two dimensions": (lambda: AdaPool1d(2, beta_map=[[0.5]]), "beta_map: must have 1 dimensions"),
    "both betas": (lambda: AdaPool1d(2, beta=0.1, beta_map=[0.5]), "beta: goes without beta_map"),
    "powers for other channels": (
        lambda: output_shape(GeMPool2d((1.0, 2.0)), (3, 4, 4)),
        "p: must have one number for each channel; got 2 for 3 channels",
    ),
    "powers for one channel": (
        lambda: output_shape(GeMPool2d((1.0, 2.0)), (1, 4, 4)),
        "p: must have one number for each channel; got 2 for 1 channel",
    ),
    "groups that do not fit": (
        lambda: output_shape(GGeMPool2d((1.0, 2.0)), (3, 4, 4)),
        "p: must have one number for each group of channels; 3 channels cannot be divided into 2 groups",
    ),
    "beta map of another size": (
        lambda: output_shape(AdaPool1d(2, beta_map=[0.5, 0.5]), (3, 9)),
        "beta_map: must have the spatial shape of the result, (4,); got (2,)",
    ),
}


@pytest.mark.parametrize(("make", "sentence"), WRONG.values(), ids=WRONG)
def test_a_wrong_parameter_is_refused_in_words(make: Callable[[], object], sentence: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        make()
    assert str(refused.value).startswith(sentence)
