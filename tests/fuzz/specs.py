"""Fuzz pooling with random specs, shapes, dtypes and values: the results must be torch's, on arrays and on tensors.

    python -m tests.fuzz.specs [--inputs N] [--seed S] [--processes P] [--replay FILE]

An input is an encoded PoolRequest. Maxima and minima must have torch's bits. Means and power sums of floats must equal
torch's float64 results within rounding, those of integers must be the exact means rounded to float32.
"""

import math
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import torch
from tests.fuzz.campaign import Fuzzer, main
from tests.unit.pooling.conftest import assert_equal_bits, make_case, make_values, pool_with_torch

from poolservice.dtypes import NUMPY_DTYPES
from poolservice.errors import InvalidRequest
from poolservice.specs import LAYERS, PoolSpec, WindowSpec, from_message, to_message
from poolservice.v1 import pool_pb2
from poolservice_server.operator_shapes import output_shape, result_dtype
from poolservice_server.pool_stage import PoolStage
from poolservice_server.pooling import pool, run_on_arrays
from poolservice_server.pooling.dispatch import KERNELS
from poolservice_server.pooling.interop import to_array, to_tensor

# Those with numpy kernels. The others have tests of their own, in tests/layers.
_OPERATORS = sorted(KERNELS)
_ROUNDING = {torch.float32: 1e-6, torch.float64: 1e-14, torch.float16: 2**-10, torch.bfloat16: 2**-7}
_ENUM = {dtype: number for number, dtype in NUMPY_DTYPES.items()}

torch.set_num_threads(1)


def generate(random: Random) -> bytes:
    """Return a PoolRequest with one spec and a tensor."""
    operator = random.choice(_OPERATORS)
    spec, shape = make_case(random, operator, large=random.random() < 0.1)
    if random.random() < 0.15:
        shape = _many_planes(random, shape, spec.spatial_dims)
    if isinstance(spec, WindowSpec) and random.random() < 0.3:
        spec = _larger_window(random, spec, shape)
    dtype = to_tensor(np.empty(0, random.choice(list(NUMPY_DTYPES.values())))).dtype
    # A power of a negative value is NaN, and a sum of infinities has no rounding error to compare with.
    values = make_values(random, shape, dtype, special=operator != "lp_pool")
    if operator == "lp_pool" and dtype.is_floating_point:
        values = values.abs()
    if dtype.is_signed and not dtype.is_floating_point and random.random() < 0.2:
        # Negative values only, which a kernel must not confuse with padding.
        values = torch.where(values < 0, values, ~values)
    array = to_array(values)
    tensor = pool_pb2.Tensor(dtype=_ENUM[array.dtype], shape=shape, data=array.tobytes())
    return pool_pb2.PoolRequest(specs=[to_message(spec)], tensor=tensor).SerializeToString(deterministic=True)


def _many_planes(random: Random, shape: tuple[int, ...], dims: int) -> tuple[int, ...]:
    """Return a shape with enough planes and wide enough rows for the kernels that combine slices of all planes."""
    spatial = (*shape[-dims:-1], max(shape[-1], random.randint(14, 40)))
    return (math.ceil(random.randint(20_000, 40_000) / math.prod(spatial)), *spatial)


def _larger_window(random: Random, spec: WindowSpec, shape: tuple[int, ...]) -> WindowSpec:
    """Return a spec with a window for the kernels that combine many values; the same spec if the shape is too small."""
    longest = random.choice((7, 12, 100))
    kernel = tuple(random.randint(1, max(1, min(size, longest))) for size in shape[-spec.spatial_dims :])
    changes: dict[str, Any] = {"kernel_size": kernel}
    if any(spec.window.padding):
        changes["padding"] = tuple(random.randint(0, size // 2) for size in kernel)
    larger = replace(spec, **changes)
    try:
        output_shape(larger, shape)
    except InvalidRequest:
        return spec
    return larger


def check(data: bytes) -> None:
    """Fail unless both ways of pooling give torch's result."""
    request = pool_pb2.PoolRequest.FromString(data)
    spec = from_message(request.specs[0])
    shape = tuple(request.tensor.shape)
    array = np.frombuffer(request.tensor.data, NUMPY_DTYPES[request.tensor.dtype]).reshape(shape)
    planes = array.reshape(math.prod(shape[: -spec.spatial_dims]), *shape[-spec.spatial_dims :])
    (of_arrays,) = run_on_arrays(PoolStage((spec,)), planes)
    of_tensors = pool(to_tensor(planes), spec)
    expected_shape = output_shape(spec, shape)[-spec.spatial_dims :]
    indices = of_arrays.indices
    for values, positions in (
        (to_tensor(of_arrays.values), None if indices is None else to_tensor(indices)),
        of_tensors,
    ):
        label = f"{spec} of {shape} {array.dtype}"
        assert tuple(values.shape[1:]) == expected_shape, label
        assert to_array(values).dtype == result_dtype(spec, array.dtype), label
        assert (positions is not None) == bool(getattr(spec, "return_indices", False)), label
        try:
            _check_values(spec, to_tensor(planes), values, positions)
        except AssertionError as error:
            raise AssertionError(f"{label}: {error}") from error


def _check_values(spec: PoolSpec, planes: torch.Tensor, values: torch.Tensor, positions: torch.Tensor | None) -> None:
    if len(planes) == 0:
        assert values.numel() == 0
    elif "max" in spec.operator or "min" in spec.operator:
        _check_extremes(spec, planes, values, positions)
    else:
        _check_sums(spec, planes, values)


def _check_extremes(spec: PoolSpec, planes: torch.Tensor, values: torch.Tensor, positions: torch.Tensor | None) -> None:
    """Compare with torch's maximum; a minimum is the maximum of the values in reverse order."""
    reverse = "min" in spec.operator
    dims = spec.spatial_dims
    equivalent = spec
    if spec.operator.startswith("global"):
        equivalent = LAYERS["adaptive_max_pool", dims](1)  # type: ignore[call-arg]
    elif reverse:
        equivalent = LAYERS["max_pool", dims](**vars(spec))
    ordered = planes
    if not planes.is_floating_point():
        # float64 holds every value of the integer types but int64, whose values here are compared by their ranks.
        # torch sorts no uint16; int64 holds the values of all integer types.
        distinct, ranks = torch.unique(planes.long(), return_inverse=True)
        ordered = ranks.double()
    expected = pool_with_torch(-ordered if reverse else ordered, equivalent)
    maxima, indices = expected if isinstance(expected, tuple) else (expected, None)
    maxima = -maxima if reverse else maxima
    if not planes.is_floating_point():
        # A window of padding alone gives an infinity, which becomes the smallest or the largest integer.
        info = torch.iinfo(planes.dtype)
        held = maxima.isfinite()
        maxima = torch.where(held, distinct[torch.where(held, maxima, 0).long()], info.max if reverse else info.min)
        maxima = maxima.to(planes.dtype)
    assert_equal_bits(values, maxima)
    if positions is not None:
        assert indices is not None
        assert_equal_bits(positions, indices)


def _check_sums(spec: PoolSpec, planes: torch.Tensor, values: torch.Tensor) -> None:
    """Compare with float64 results, within the rounding of a sum: its terms may cancel."""
    exact, scale = _in_float64(spec, planes.double()), _in_float64(spec, planes.double().nan_to_num(0, 0, 0).abs())
    assert torch.equal(values.isnan(), exact.isnan()), "NaN in other places"
    allowed = _rounding(spec, values.dtype) * scale.abs() + torch.finfo(values.dtype).tiny
    nearest = exact.to(values.dtype)
    # The result may be an infinity or finite if the largest finite value is as near to the exact one as errors may be.
    on_edge = (exact.abs() - torch.finfo(values.dtype).max).abs() <= allowed
    finite = values.isfinite() & nearest.isfinite()
    infinite = ~finite & ~on_edge
    assert torch.equal(values[infinite].nan_to_num(7.0), nearest[infinite].nan_to_num(7.0)), "infinities differ"
    error = (values.double() - exact).abs()[finite]
    assert bool((error <= allowed[finite]).all()), f"an error of {float(error.max())}"


def _rounding(spec: PoolSpec, dtype: torch.dtype) -> float:
    """Return the largest relative error of a result."""
    # float16 and bfloat16 are computed in float32.
    computed_in = torch.float64 if dtype is torch.float64 else torch.float32
    # torch adds the values of a window one after the other, and the errors add up as a random walk.
    count = math.prod(spec.window.kernel_size) if isinstance(spec, WindowSpec) else 1
    of_sum = max(_ROUNDING[computed_in], torch.finfo(computed_in).eps * math.sqrt(count))
    # The root of a power sum multiplies the sum's relative error.
    exponent: float = getattr(spec, "norm_type", 1.0)
    return max(_ROUNDING[dtype], of_sum * max(1.0, abs(1 / exponent)))


def _in_float64(spec: PoolSpec, planes: torch.Tensor) -> torch.Tensor:
    result: Any
    if spec.operator == "global_avg_pool":
        result = planes.flatten(1).mean(1).reshape(-1, *(1,) * spec.spatial_dims)
    elif spec.operator == "mixed_pool":
        window = {name: value for name, value in vars(spec).items() if not name.startswith("alpha")}
        alpha = vars(spec)["alpha"]
        maximum = pool_with_torch(planes, LAYERS["max_pool", spec.spatial_dims](**window))
        mean = pool_with_torch(planes, LAYERS["avg_pool", spec.spatial_dims](**window))
        result = alpha * maximum + (1 - alpha) * mean
    else:
        result = pool_with_torch(planes, spec)
    assert isinstance(result, torch.Tensor)
    return result


if __name__ == "__main__":
    main(Fuzzer("specs", generate, check, inputs=130_000))
