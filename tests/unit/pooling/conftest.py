"""Random specs and planes, and two references for the operators: torch, and exact arithmetic in Python."""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import fields
from fractions import Fraction
from random import Random
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F

from poolservice.errors import InvalidRequest
from poolservice.specs import LAYERS, AdaptiveSpec, PoolSpec, WindowSpec
from poolservice_server.operator_shapes import output_shape

SPECIAL_VALUES = torch.tensor((math.nan, math.inf, -math.inf, -0.0, 0.0), dtype=torch.float64)

# The shortest and longest side of a plane, by the number of its dimensions.
SMALL = {1: (1, 24), 2: (1, 12), 3: (1, 7)}
LARGE = {1: (4100, 4200), 2: (65, 75), 3: (17, 20)}


class WindowContents(NamedTuple):
    """The maximum, minimum and mean of a window's values; None if it holds none."""

    maximum: int | None
    minimum: int | None
    mean: Fraction | None


def _sizes(random: Random, dims: int, low: int, high: int) -> tuple[int, ...]:
    if random.random() < 0.5:
        return (random.randint(low, high),) * dims
    return tuple(random.randint(low, high) for _ in range(dims))


def _window(random: Random, dims: int) -> dict[str, Any]:
    kernel = _sizes(random, dims, 1, 4)
    parameters: dict[str, Any] = {"kernel_size": kernel}
    if random.random() < 0.7:
        parameters["stride"] = _sizes(random, dims, 1, 4)
    if random.random() < 0.6:
        parameters["padding"] = tuple(random.randint(0, size // 2) for size in kernel)
    parameters["ceil_mode"] = random.random() < 0.5
    if random.random() < 0.4:
        parameters["dilation"] = _sizes(random, dims, 1, 3)
    return parameters


def _spec(random: Random, operator: str, dims: int | None = None) -> PoolSpec:
    dims = random.randint(1, 3) if dims is None else dims
    sizes = tuple(random.choice((1, 2, 3, 5, None, 0)) for _ in range(dims))
    parameters = _window(random, dims) | {
        "output_size": sizes if random.random() < 0.8 else (1,) * dims,
        "count_include_pad": random.random() < 0.5,
        "divisor_override": random.choice((None, None, 1, -3, 7)),
        "norm_type": random.choice((1.0, 2.0, 3.0, 0.5, 1.7, -1.5)),
        "alpha": random.choice((0.0, 0.25, 0.5, 1.0)),
    }
    layer = LAYERS[operator, dims]
    own = {field.name for field in fields(layer)}
    return layer(**{name: value for name, value in parameters.items() if name in own})


def make_case(random: Random, operator: str, *, large: bool = False) -> tuple[PoolSpec, tuple[int, ...]]:
    """Return a spec and a shape that it accepts: (C, *) or (N, C, *), where N is sometimes 0.

    Large planes are pooled by other kernels than small ones.
    """
    while True:
        spec = _spec(random, operator)
        shortest, longest = (LARGE if large else SMALL)[spec.spatial_dims]
        leading = random.choice(((2,), (1,), (3, 2), (1, 2), (0, 2)))
        shape = (*leading, *(random.randint(shortest, longest) for _ in range(spec.spatial_dims)))
        try:
            output_shape(spec, shape)
        except InvalidRequest:
            continue
        return spec, shape


def make_values(random: Random, shape: tuple[int, ...], dtype: torch.dtype, *, special: bool = True) -> torch.Tensor:
    """Return values with many ties; with `special`, floats sometimes include NaN, infinities and both zeros."""
    generator = torch.Generator().manual_seed(random.getrandbits(32))
    if not dtype.is_floating_point:
        info = torch.iinfo(dtype)
        low, high = random.choice(((info.min, info.max), (max(info.min, -3), 3)))
        values = torch.randint(low, high, shape, dtype=torch.int64, generator=generator)
        # randint excludes its upper bound.
        return torch.where(torch.rand(shape, generator=generator) < 0.1, high, values).to(dtype)
    values = torch.randn(shape, generator=generator, dtype=torch.float64)
    distribution = random.choice(("normal", "ties", "zeros") if special else ("normal", "positive"))
    if distribution == "ties":
        values = values.round()
    elif distribution == "zeros":
        values = torch.where(values > 0, 0.0, -0.0)
    elif distribution == "positive":
        values = values.abs()
    if special and random.random() < 0.5:
        chosen = SPECIAL_VALUES[torch.randint(0, len(SPECIAL_VALUES), shape, generator=generator)]
        values = torch.where(torch.rand(shape, generator=generator) < 0.2, chosen, values)
    return values.to(dtype)


def pool_with_torch(x: torch.Tensor, spec: PoolSpec) -> Any:
    """Return the result of torch.nn.functional, which must support the operator, the dimensions and the dtype."""
    dims = spec.spatial_dims
    function = getattr(F, f"{spec.operator}{dims}d")
    parameters = {
        name: value for name, value in vars(spec).items() if name not in ("output_size", "norm_type", "absolute")
    }
    if isinstance(spec, AdaptiveSpec):
        sizes = tuple(x.shape[i - dims] if size is None else size for i, size in enumerate(spec.sizes))
        return function(x, sizes if dims > 1 else sizes[0], **parameters)
    if spec.operator == "lp_pool":
        kernel = parameters.pop("kernel_size")
        return function(x, vars(spec)["norm_type"], kernel if dims > 1 else kernel[0], **parameters)
    return function(x, **parameters)


def _covered(spec: PoolSpec, spatial: tuple[int, ...], out: tuple[int, ...]) -> Iterator[tuple[list[int], int]]:
    """Yield for each window the flat positions that it covers in the plane, and the divisor of its mean."""
    axes: list[list[tuple[list[int], int]]] = []
    for d, (size, count) in enumerate(zip(spatial, out, strict=True)):
        axes.append([])
        for i in range(count):
            if isinstance(spec, WindowSpec):
                kernel, stride, padding, dilation = (values[d] for values in spec.window[:4])
                covered = [stride * i - padding + dilation * k for k in range(kernel)]
                inside = [position for position in covered if 0 <= position < size]
                padded = sum(position < size + padding for position in covered)
                axes[d].append((inside, padded if getattr(spec, "count_include_pad", True) else len(inside)))
            else:
                inside = list(range(i * size // count, -(-(i + 1) * size // count)))
                axes[d].append((inside, len(inside)))
    for windows in itertools.product(*axes):
        positions = []
        for coordinates in itertools.product(*(inside for inside, _ in windows)):
            flat = 0
            for coordinate, size in zip(coordinates, spatial, strict=True):
                flat = flat * size + coordinate
            positions.append(flat)
        yield positions, math.prod(count for _, count in windows)


def _exact_windows(planes: torch.Tensor, spec: PoolSpec, out: tuple[int, ...]) -> list[WindowContents]:
    """Return the contents of each window of each plane, in exact arithmetic; values must be finite."""
    windows = list(_covered(spec, tuple(planes.shape[1:]), out))
    override = getattr(spec, "divisor_override", None)
    contents = []
    for plane in planes.flatten(1).tolist():
        for positions, count in windows:
            values = [plane[position] for position in positions]
            divisor = override or count
            mean = sum(map(Fraction, values), Fraction(0)) / divisor if divisor else None
            contents.append(WindowContents(max(values, default=None), min(values, default=None), mean))
    return contents


def assert_equal_bits(got: torch.Tensor, expected: torch.Tensor) -> None:
    """Assert equal dtypes, shapes and bits; the bits of NaN may differ."""
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    if got.is_floating_point():
        assert torch.equal(got.isnan(), expected.isnan())
        got, expected = got.nan_to_num(7.0, math.inf, -math.inf), expected.nan_to_num(7.0, math.inf, -math.inf)
        assert torch.equal(got.signbit(), expected.signbit())
    assert torch.equal(got, expected)


@pytest.fixture(scope="session")
def random_case() -> Callable[..., tuple[PoolSpec, tuple[int, ...]]]:
    return make_case


@pytest.fixture(scope="session")
def random_values() -> Callable[..., torch.Tensor]:
    return make_values


@pytest.fixture(scope="session")
def torch_result() -> Callable[[torch.Tensor, PoolSpec], Any]:
    return pool_with_torch


@pytest.fixture(scope="session")
def exact_windows() -> Callable[[torch.Tensor, PoolSpec, tuple[int, ...]], list[WindowContents]]:
    return _exact_windows


@pytest.fixture(scope="session")
def assert_same_bits() -> Callable[[torch.Tensor, torch.Tensor], None]:
    return assert_equal_bits
