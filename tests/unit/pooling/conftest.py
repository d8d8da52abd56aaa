"""Random specs and planes, and two references to hold the operators against: torch itself, and counting by hand."""

import itertools
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from random import Random
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F

from poolservice.errors import InvalidRequest
from poolservice.specs import LAYERS, AdaptiveSpec, PoolSpec, WindowSpec
from poolservice_server.shapes import output_shape

ODD = torch.tensor((math.nan, math.inf, -math.inf, -0.0, 0.0), dtype=torch.float64)

# The shortest and longest side of a plane, by its dimensions.
SMALL = {1: (1, 24), 2: (1, 12), 3: (1, 7)}
LARGE = {1: (4100, 4200), 2: (65, 75), 3: (17, 20)}


class Counted(NamedTuple):
    """What a window holds; None where it holds nothing."""

    largest: int | None
    least: int | None
    mean: Fraction | None


def _sizes(random: Random, dims: int, low: int, high: int) -> tuple[int, ...]:
    if random.random() < 0.5:
        return (random.randint(low, high),) * dims
    return tuple(random.randint(low, high) for _ in range(dims))


def _window(random: Random, dims: int, operator: str) -> dict[str, Any]:
    kernel = _sizes(random, dims, 1, 4)
    given: dict[str, Any] = {"kernel_size": kernel}
    if random.random() < 0.7:
        given["stride"] = _sizes(random, dims, 1, 4)
    if operator != "lp_pool" and random.random() < 0.6:
        given["padding"] = tuple(random.randint(0, size // 2) for size in kernel)
    if operator != "mixed_pool":
        given["ceil_mode"] = random.random() < 0.5
    if operator in ("max_pool", "min_pool") and random.random() < 0.4:
        given["dilation"] = _sizes(random, dims, 1, 3)
    return given


def _parameters(random: Random, dims: int, operator: str) -> dict[str, Any]:
    given: dict[str, Any] = {}
    if operator == "avg_pool":
        given["count_include_pad"] = random.random() < 0.5
        if dims > 1:
            given["divisor_override"] = random.choice((None, None, 1, -3, 7))
    elif operator == "lp_pool":
        given["norm_type"] = random.choice((1.0, 2.0, 3.0, 0.5, 1.7, -1.5))
    elif operator == "mixed_pool":
        given["alpha"] = random.choice((0.0, 0.25, 0.5, 1.0))
    return given


def _spec(random: Random, operator: str, dims: int | None = None) -> PoolSpec:
    dims = random.randint(1, 3) if dims is None else dims
    given = _parameters(random, dims, operator)
    if operator.startswith("adaptive"):
        sizes = tuple(random.choice((1, 2, 3, 5, None, 0)) for _ in range(dims))
        given["output_size"] = sizes if random.random() < 0.8 else (1,) * dims
    elif not operator.startswith("global"):
        given |= _window(random, dims, operator)
    return LAYERS[operator, dims](**given)


def _task(random: Random, operator: str, *, large: bool = False) -> tuple[PoolSpec, tuple[int, ...]]:
    """A spec and a shape that it takes: (C, *) or (N, C, *), N now and then 0.

    Large planes are those for which another kernel is worth its start.
    """
    while True:
        spec = _spec(random, operator)
        shortest, longest = (LARGE if large else SMALL)[spec.spatial_dims]
        lead = random.choice(((2,), (1,), (3, 2), (1, 2), (0, 2)))
        shape = (*lead, *(random.randint(shortest, longest) for _ in range(spec.spatial_dims)))
        try:
            output_shape(spec, shape)
        except InvalidRequest:
            continue
        return spec, shape


def _values(random: Random, shape: tuple[int, ...], dtype: torch.dtype, *, odd: bool = True) -> torch.Tensor:
    """Values with many ties; for floats, where `odd`, NaN, infinities and both zeros now and then."""
    generator = torch.Generator().manual_seed(random.getrandbits(32))
    if not dtype.is_floating_point:
        info = torch.iinfo(dtype)
        low, high = random.choice(((info.min, info.max), (max(info.min, -3), 3)))
        values = torch.randint(low, high, shape, dtype=torch.int64, generator=generator)
        # randint leaves its upper end out.
        return torch.where(torch.rand(shape, generator=generator) < 0.1, high, values).to(dtype)
    values = torch.randn(shape, generator=generator, dtype=torch.float64)
    kind = random.choice(("normal", "ties", "zeros") if odd else ("normal", "positive"))
    if kind == "ties":
        values = values.round()
    elif kind == "zeros":
        values = torch.where(values > 0, 0.0, -0.0)
    elif kind == "positive":
        values = values.abs()
    if odd and random.random() < 0.5:
        chosen = ODD[torch.randint(0, len(ODD), shape, generator=generator)]
        values = torch.where(torch.rand(shape, generator=generator) < 0.2, chosen, values)
    return values.to(dtype)


def _torch_pool(x: torch.Tensor, spec: PoolSpec) -> Any:
    """torch.nn.functional's answer, for a layer, a rank and a type that it takes."""
    dims = spec.spatial_dims
    function = getattr(F, f"{spec.operator}{dims}d")
    given = {name: value for name, value in vars(spec).items() if name not in ("output_size", "norm_type")}
    if isinstance(spec, AdaptiveSpec):
        sizes = tuple(x.shape[i - dims] if size is None else size for i, size in enumerate(spec.sizes))
        return function(x, sizes if dims > 1 else sizes[0], **given)
    if spec.operator == "lp_pool":
        kernel = given.pop("kernel_size")
        return function(x, vars(spec)["norm_type"], kernel if dims > 1 else kernel[0], **given)
    return function(x, **given)


def _covered(spec: PoolSpec, spatial: tuple[int, ...], out: tuple[int, ...]) -> Iterator[tuple[list[int], int]]:
    """For each window: the flat positions that it covers in the plane, and what a mean divides by."""
    axes: list[list[tuple[list[int], int]]] = []
    for d, (size, count) in enumerate(zip(spatial, out, strict=True)):
        axes.append([])
        for i in range(count):
            if isinstance(spec, WindowSpec):
                kernel, stride, padding, dilation = (values[d] for values in spec.window[:4])
                reach = [stride * i - padding + dilation * k for k in range(kernel)]
                inside = [at for at in reach if 0 <= at < size]
                padded = sum(at < size + padding for at in reach)
                axes[d].append((inside, padded if getattr(spec, "count_include_pad", True) else len(inside)))
            else:
                inside = list(range(i * size // count, -(-(i + 1) * size // count)))
                axes[d].append((inside, len(inside)))
    for windows in itertools.product(*axes):
        positions = []
        for at in itertools.product(*(inside for inside, _ in windows)):
            flat = 0
            for one, size in zip(at, spatial, strict=True):
                flat = flat * size + one
            positions.append(flat)
        yield positions, math.prod(count for _, count in windows)


def _counted(planes: torch.Tensor, spec: PoolSpec, out: tuple[int, ...]) -> list[Counted]:
    """What each window of each plane holds, of finite values, in exact arithmetic."""
    windows = list(_covered(spec, tuple(planes.shape[1:]), out))
    override = getattr(spec, "divisor_override", None)
    answers = []
    for plane in planes.flatten(1).tolist():
        for positions, count in windows:
            values = [plane[at] for at in positions]
            divisor = override or count
            mean = sum(map(Fraction, values), Fraction(0)) / divisor if divisor else None
            answers.append(Counted(max(values, default=None), min(values, default=None), mean))
    return answers


def _assert_same_bits(got: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal types, shapes and bits; but any NaN is as good as another."""
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    if got.is_floating_point():
        assert torch.equal(got.isnan(), expected.isnan())
        got, expected = got.nan_to_num(7.0, math.inf, -math.inf), expected.nan_to_num(7.0, math.inf, -math.inf)
        assert torch.equal(got.signbit(), expected.signbit())
    assert torch.equal(got, expected)


@pytest.fixture(scope="session")
def a_task() -> Callable[..., tuple[PoolSpec, tuple[int, ...]]]:
    return _task


@pytest.fixture(scope="session")
def some_values() -> Callable[..., torch.Tensor]:
    return _values


@pytest.fixture(scope="session")
def torch_pool() -> Callable[[torch.Tensor, PoolSpec], Any]:
    return _torch_pool


@pytest.fixture(scope="session")
def counted() -> Callable[[torch.Tensor, PoolSpec, tuple[int, ...]], list[Counted]]:
    return _counted


@pytest.fixture(scope="session")
def assert_same_bits() -> Callable[[torch.Tensor, torch.Tensor], None]:
    return _assert_same_bits
