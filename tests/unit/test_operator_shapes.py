"""output_shape accepts and refuses exactly what torch accepts and refuses."""

from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from poolservice.dtypes import NUMPY_DTYPES
from poolservice.errors import InvalidRequest
from poolservice.specs import (
    LAYERS,
    AdaptiveAvgPool2d,
    AdaptiveMaxPool2d,
    AdaptiveMaxPool3d,
    AvgPool2d,
    AvgPool3d,
    GlobalAvgPool2d,
    GlobalMaxPool1d,
    LPPool3d,
    MaxPool1d,
    MaxPool2d,
    MinPool2d,
    MixedPool2d,
    MixedPool3d,
    PoolSpec,
)
from poolservice_server.operator_shapes import output_shape, result_dtype
from poolservice_server.stage_cost.spec_estimates import ESTIMATES

Case = tuple[PoolSpec, Any, dict[str, Any], tuple[int, ...]]

# Drawing an example costs more than checking a case, so each example is the seed of many cases.
CASES = 100
seeds = st.integers(0, 2**32 - 1)


def sizes(random: Random, dims: int, low: int, high: int) -> tuple[int, ...]:
    return tuple(random.randint(low, high) for _ in range(dims))


def random_case(random: Random, operators: Sequence[str]) -> Case:
    """Return a spec, torch's function with its parameters, and a shape that either of them may refuse."""
    dims = random.randint(1, 3)
    operator = random.choice(operators)
    adaptive = operator.startswith("adaptive")
    parameters = _adaptive_parameters(random, dims) if adaptive else _window_parameters(random, dims, operator)
    if operator.endswith("max_pool"):
        parameters["return_indices"] = random.random() < 0.5
    spec = LAYERS[operator, dims](**parameters)
    for name in ("output_size", "kernel_size"):
        # torch's one-dimensional functions accept no tuple here.
        if dims == 1 and name in parameters and (adaptive or operator == "lp_pool"):
            parameters[name] = parameters[name][0]
    leading = random.choice(((2,), (3, 2), (2,), (3, 2), (0,), (0, 2), (2, 0), (0, 0)))
    spatial = sizes(random, dims, 1, 7) if random.random() < 0.8 else sizes(random, dims, 0, 3)
    return spec, getattr(F, f"{operator}{dims}d"), parameters, leading + spatial


def _adaptive_parameters(random: Random, dims: int) -> dict[str, Any]:
    wanted: tuple[int | None, ...] = sizes(random, dims, 0, 3) if random.random() < 0.7 else (1,) * dims
    return {"output_size": (None, *wanted[1:]) if dims > 1 and random.random() < 0.3 else wanted}


def _window_parameters(random: Random, dims: int, operator: str) -> dict[str, Any]:
    kernel = sizes(random, dims, 1, 5)
    parameters: dict[str, Any] = {"kernel_size": kernel, "ceil_mode": random.random() < 0.5}
    parameters["stride"] = kernel if random.random() < 0.4 else sizes(random, dims, 1, 6)
    if operator == "lp_pool":
        return {"norm_type": 2.0} | parameters
    parameters["padding"] = tuple(random.randint(0, size // 2) for size in kernel)
    if operator == "max_pool":
        parameters["dilation"] = (1,) * dims if random.random() < 0.5 else sizes(random, dims, 1, 4)
    return parameters


def torch_shape(function: Any, parameters: dict[str, Any], shape: tuple[int, ...]) -> tuple[int, ...] | None:
    try:
        y = function(torch.zeros(shape), **parameters)
    except (RuntimeError, ValueError, IndexError):
        return None
    return tuple((y[0] if isinstance(y, tuple) else y).shape)


@settings(max_examples=50, deadline=None)
@given(seeds)
def test_output_shape_accepts_and_refuses_what_torch_does(seed: int) -> None:
    random = Random(seed)
    operators = ("max_pool", "avg_pool", "lp_pool", "adaptive_max_pool", "adaptive_avg_pool")
    for _ in range(CASES):
        spec, function, parameters, shape = random_case(random, operators)
        expected = torch_shape(function, parameters, shape)
        if expected is not None:
            assert output_shape(spec, shape) == expected, f"{spec} of {shape}"
            continue
        with pytest.raises(InvalidRequest) as refused:
            output_shape(spec, shape)
        assert refused.value.field == "tensor.shape" or hasattr(spec, refused.value.field)


@settings(max_examples=10, deadline=None)
@given(seeds)
def test_operators_that_torch_lacks_follow_those_that_it_has(seed: int) -> None:
    random = Random(seed)
    for _ in range(CASES):
        spec, _, parameters, shape = random_case(random, ("max_pool",))
        dims = spec.spatial_dims
        assert _outcome(LAYERS["min_pool", dims](**parameters), shape) == _outcome(spec, shape)
        window = {name: parameters[name] for name in ("kernel_size", "stride", "padding")}
        largest = _outcome(LAYERS["max_pool", dims](**window), shape)
        mean = _outcome(LAYERS["avg_pool", dims](**window), shape)
        mixed = _outcome(LAYERS["mixed_pool", dims](**window), shape)
        assert mixed == (largest if mean is not None else None)


def _outcome(spec: PoolSpec, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    try:
        return output_shape(spec, shape)
    except InvalidRequest:
        return None


@pytest.mark.parametrize("operator", ["global_max_pool", "global_avg_pool", "global_min_pool"])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_global_operators_accept_any_plane_that_is_not_empty(operator: str, dims: int) -> None:
    spec = LAYERS[operator, dims]()
    ones = (1,) * dims
    for leading in ((4,), (0,), (2, 3), (0, 3), (2, 0)):
        assert output_shape(spec, leading + (5,) * dims) == leading + ones
        assert _outcome(spec, leading + (0,) * dims) is None


REFUSALS = [
    (MaxPool2d(2), (8, 8), "tensor.shape", "takes 3 dimensions (C, height, width) or 4 (N, C, height, width); got 2"),
    (MaxPool2d(2), (1, 1, 1, 8, 8), "tensor.shape", "got 5"),
    (GlobalMaxPool1d(), (), "tensor.shape", "takes 2 dimensions (C, width) or 3 (N, C, width); got 0"),
    (MaxPool2d(2), (3, 0, 8), "tensor.shape", "no empty plane"),
    (GlobalAvgPool2d(), (3, 8, 0), "tensor.shape", "no empty plane"),
    (AvgPool2d(2), (0, 8, 8), "tensor.shape", "without channels"),
    (AdaptiveMaxPool2d(2), (1, 0, 8, 8), "tensor.shape", "without channels"),
    (MaxPool2d(9), (3, 8, 8), "kernel_size", "a kernel_size of 9 is larger than the input, 8 with a padding of 0"),
    (
        MinPool2d(3, dilation=4),
        (3, 8, 8),
        "dilation",
        "a kernel_size of 3, 9 with a dilation of 4, is larger than the input",
    ),
    (AvgPool3d(3, padding=1), (3, 2, 8, 8), "kernel_size", "no kernel larger than the input"),
    (LPPool3d(2, 3), (3, 2, 8, 8), "kernel_size", "no kernel larger than the input"),
    (MixedPool3d(3, padding=1), (3, 2, 8, 8), "kernel_size", "no kernel larger than the input"),
    (MixedPool2d(9), (3, 8, 8), "kernel_size", "no window fits"),
    (AdaptiveMaxPool3d(2**31 - 1), (3, 2, 8, 8), "output_size", "more than any machine holds"),
    (AdaptiveAvgPool2d(2**31 - 1), (0, 3, 8, 8), "output_size", "more than any machine holds"),
    # In 32 bits the span of the window overflows, and torch returns -inf.
    (MaxPool2d(2, 2**31 - 1, dilation=2**31 - 1, ceil_mode=True), (3, 8, 8), "dilation", "at most 2147483647"),
    # torch visits 2^29 values of padding for each result.
    (MaxPool1d(2**30 - 2, padding=2**29 - 1), (1, 12), "padding", "at most 65536 if it is larger than the input"),
]


@pytest.mark.parametrize(("spec", "shape", "field", "rule"), REFUSALS)
def test_an_error_names_the_field_and_the_rule(spec: PoolSpec, shape: tuple[int, ...], field: str, rule: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        output_shape(spec, shape)
    assert refused.value.field == field
    assert rule in refused.value.reason


def test_a_huge_kernel_is_refused_immediately_unlike_in_torch() -> None:
    # F.max_pool1d(x, 2**40) never returns; 2**31 - 1 is the largest kernel that a spec accepts.
    with pytest.raises(InvalidRequest, match="no window fits"):
        output_shape(MaxPool1d(2**31 - 1), (1, 12))


def test_order_statistics_keep_the_dtype_and_means_of_integers_give_float32() -> None:
    order_statistics = {"max_pool", "min_pool", "adaptive_max_pool", "global_max_pool", "global_min_pool"}
    required: dict[str, dict[str, Any]] = {
        "lp_pool": {"norm_type": 2.0, "kernel_size": 2},
        "adaptive_max_pool": {"output_size": 1},
        "adaptive_avg_pool": {"output_size": 1},
    }
    classic = {key: layer for key, layer in LAYERS.items() if key[0] in ESTIMATES}
    for (operator, _), layer in classic.items():
        parameters = {} if operator.startswith("global") else required.get(operator, {"kernel_size": 2})
        for dtype in NUMPY_DTYPES.values():
            integer = np.issubdtype(dtype, np.integer)
            expected = dtype if operator in order_statistics or not integer else np.dtype(np.float32)
            assert result_dtype(layer(**parameters), dtype) == expected


@pytest.mark.parametrize("shape", [(0, 2**40, 2**40), (0, 3, 2**40, 2**40), (2**40, 2**10, 0)])
@pytest.mark.parametrize("spec", [GlobalAvgPool2d(), MaxPool2d(2), AdaptiveAvgPool2d(1)])
def test_a_tensor_that_no_machine_holds_is_refused_even_if_it_is_empty(shape: tuple[int, ...], spec: PoolSpec) -> None:
    with pytest.raises(InvalidRequest, match=r"the tensor would have \d+ values, but for its empty") as refused:
        output_shape(spec, shape)
    assert refused.value.field == "tensor.shape"
