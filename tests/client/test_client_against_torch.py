"""Every layer, through the SDK and a real server, compared with torch: 2,100 generated cases.

The reference is torch in float64, which represents each of these values exactly. Order statistics must be equal to it
in the dtype of the input, means within rounding.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from poolservice.specs import LAYERS, PoolSpec
from poolservice_client import InvalidRequest, PoolClient
from poolservice_server.pooling.dispatch import KERNELS

CASES_PER_LAYER = 70
DTYPES = ("float32", "float64", "float16", "bfloat16", "uint8", "int8", "int16", "int32", "int64")
ORDER_STATISTICS = ("max_pool", "min_pool", "adaptive_max_pool", "global_max_pool", "global_min_pool")
# The tolerance: half an ulp of the dtype of the result, plus the rounding of float32 sums.
ROUNDING = {"float64": 1e-12, "float32": 1e-6, "float16": 1e-3, "bfloat16": 8e-3}


class Case(NamedTuple):
    layer: type[PoolSpec]
    parameters: dict[str, Any]
    x: np.ndarray


@pytest.fixture(scope="module")
def client(server_address: str) -> Iterator[PoolClient]:
    with PoolClient(server_address) as client:
        yield client


def sizes(dims: int, low: int, high: int) -> st.SearchStrategy[Any]:
    one = st.integers(low, high)
    return one | st.tuples(*[one] * dims)


def optional_parameters(operator: str, dims: int) -> dict[str, st.SearchStrategy[Any]]:
    """Return the optional parameters, by their names in torch."""
    optional: dict[str, st.SearchStrategy[Any]] = {"stride": sizes(dims, 1, 3), "ceil_mode": st.booleans()}
    if operator != "lp_pool":
        optional["padding"] = sizes(dims, 0, 2)
    if operator in ("max_pool", "min_pool"):
        optional |= {"dilation": sizes(dims, 1, 2), "return_indices": st.booleans()}
    if operator == "avg_pool":
        optional["count_include_pad"] = st.booleans()
        if dims > 1:
            optional["divisor_override"] = st.sampled_from((1, 3, -2))
    if operator == "mixed_pool":
        optional["alpha"] = st.sampled_from((0.0, 0.25, 1.0))
    return optional


def parameters(layer: type[PoolSpec]) -> st.SearchStrategy[dict[str, Any]]:
    """Return parameters of a layer. torch rejects some of them."""
    operator, dims = layer.operator, layer.spatial_dims
    required: dict[str, st.SearchStrategy[Any]] = {}
    if operator.startswith("global"):
        return st.fixed_dictionaries(required)
    if operator.startswith("adaptive"):
        one = st.integers(0, 5) | st.none()
        required["output_size"] = one | st.tuples(*[one] * dims)
        if operator == "adaptive_max_pool":
            required["return_indices"] = st.booleans()
        return st.fixed_dictionaries(required)
    required["kernel_size"] = sizes(dims, 1, 4)
    if operator == "lp_pool":
        required["norm_type"] = st.sampled_from((1.0, 2.0, 3.0))
    return st.fixed_dictionaries(required, optional=optional_parameters(operator, dims))


@st.composite
def cases(draw: st.DrawFn, layer: type[PoolSpec]) -> Case:
    dtype = draw(st.sampled_from(DTYPES))
    batch = draw(st.sampled_from([(), (), (2,), (0,)]))
    shape = (*batch, draw(st.integers(1, 3)), *draw(st.tuples(*[st.integers(1, 9)] * layer.spatial_dims)))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if dtype.startswith(("float", "bfloat")):
        values = random.standard_normal(shape)
        if layer.operator in ORDER_STATISTICS and draw(st.booleans()):
            values[random.random(shape) < 0.1] = draw(st.sampled_from((np.nan, np.inf, -np.inf)))
        x = values.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    else:
        bounds = np.iinfo(dtype)
        x = random.integers(max(bounds.min, -(2**30)), min(bounds.max, 2**30), shape, dtype, endpoint=True)
    return Case(layer, draw(parameters(layer)), x)


def reference(case: Case) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the result and the indices of torch in float64, or raise its error."""
    x = torch.from_numpy(case.x.astype(np.float64))
    operator, dims, arguments = case.layer.operator, case.layer.spatial_dims, dict(case.parameters)
    axes = tuple(range(-dims, 0))
    if operator == "global_avg_pool":
        return x.mean(axes, keepdim=True), None
    if operator.startswith("global"):
        return (x.amax if operator == "global_max_pool" else x.amin)(axes, keepdim=True), None
    if operator == "mixed_pool":
        alpha = arguments.pop("alpha", 0.5)
        maximum, mean = (getattr(torch.nn, f"{name}Pool{dims}d")(**arguments)(x) for name in ("Max", "Avg"))
        return alpha * maximum + (1 - alpha) * mean, None
    if operator.startswith("adaptive"):
        # torch accepts None in some of its layers only; poolservice accepts it in all of them.
        output_size = arguments["output_size"]
        output_size = output_size if isinstance(output_size, tuple) else (output_size,) * dims
        own_sizes = x.shape[-dims:]
        arguments["output_size"] = tuple(
            own if size is None else size for size, own in zip(output_size, own_sizes, strict=True)
        )
    if operator == "lp_pool" and dims == 1:
        # torch accepts an int only.
        arguments = {name: value[0] if isinstance(value, tuple) else value for name, value in arguments.items()}
    name = case.layer.__name__.replace("Min", "Max")
    sign = -1 if operator == "min_pool" else 1
    result = getattr(torch.nn, name)(**arguments)(sign * x)
    values, indices = result if isinstance(result, tuple) else (result, None)
    return sign * values, indices


@pytest.mark.parametrize(
    "layer", [layer for layer in LAYERS.values() if layer.operator in KERNELS], ids=lambda layer: layer.__name__
)
def test_a_layer_gives_the_results_of_torch(client: PoolClient, layer: type[PoolSpec]) -> None:
    @settings(max_examples=CASES_PER_LAYER)
    @given(cases(layer))
    def results_equal_torch(case: Case) -> None:
        try:
            expected, expected_indices = reference(case)
        except (RuntimeError, ValueError, TypeError):
            with pytest.raises(InvalidRequest):
                client.pool(case.x, case.layer(**case.parameters))
            return
        result = client.pool(case.x, case.layer(**case.parameters))
        values, indices = result if isinstance(result, tuple) else (result, None)
        if layer.operator in ORDER_STATISTICS:
            assert values.dtype == case.x.dtype
            if case.x.dtype.kind in "iu":
                # In windows that hold only padding, torch gives -inf or inf instead of the smallest or largest integer.
                limits = np.iinfo(case.x.dtype)
                expected = expected.clamp(limits.min, limits.max)
            np.testing.assert_array_equal(values.astype(np.float64), expected.numpy())
        else:
            floating = case.x.dtype.name in ROUNDING
            assert values.dtype == (case.x.dtype if floating else np.float32)
            rounding = ROUNDING[values.dtype.name] * (10 if layer.operator == "lp_pool" else 1)
            scale = np.abs(case.x.astype(np.float64)).max(initial=0.0)
            np.testing.assert_allclose(
                values.astype(np.float64), expected.numpy(), rtol=rounding, atol=rounding * scale
            )
        assert (indices is None) == (expected_indices is None)
        if expected_indices is not None:
            np.testing.assert_array_equal(indices, expected_indices.numpy(), strict=True)

    results_equal_torch()
