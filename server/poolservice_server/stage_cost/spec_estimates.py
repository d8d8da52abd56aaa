"""The estimate of a spec: which module estimates its operator, and how its planes are grouped."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np

from poolservice.specs import GlobalSpec, PoolSpec, WindowSpec
from poolservice_server import kernel_thresholds as thresholds
from poolservice_server.operator_costs.cost import Sample
from poolservice_server.operator_shapes import SEQUENCES, layer_shape, layer_shapes, layers_of, result_dtype
from poolservice_server.operators import OPERATORS, ORDER_STATISTICS, stacks
from poolservice_server.stage_cost import coefficients as c
from poolservice_server.stage_cost import tiles, windows
from poolservice_server.stage_cost.estimate import Estimate, Sizes, sizes_of
from poolservice_server.stage_cost.window_geometry import Geometry

_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
_UINT16, _INT32 = np.dtype(np.uint16), np.dtype(np.int32)

#: Estimates the spec of an operator on planes of these sizes, by the name of the operator in the contract.
ESTIMATES: Mapping[str, Callable[[Any, Sizes], Estimate]] = MappingProxyType(
    {
        "max_pool": partial(windows.extreme, minimum=False),
        "min_pool": partial(windows.extreme, minimum=True),
        "avg_pool": windows.average,
        "lp_pool": windows.power_sum,
        "mixed_pool": windows.mixed,
        "adaptive_max_pool": partial(tiles.tiles, mean=False),
        "adaptive_avg_pool": partial(tiles.tiles, mean=True),
        "global_max_pool": tiles.plane_extreme,
        "global_min_pool": tiles.plane_extreme,
        "global_avg_pool": tiles.plane_mean,
    }
)


def spec_estimate(
    spec: PoolSpec, shape: tuple[int, ...], dtype: np.dtype, *, channels: int, unit_scale: bool
) -> Estimate:
    """Estimate a spec on planes (P, *spatial), which `run_stage` pools in groups.

    Args:
        spec: the spec, validated for the shape.
        shape: (P, *spatial).
        dtype: the dtype of the planes.
        channels: the number of channels of a sample; it matters for operators that pool one sample at a time.
        unit_scale: True if the planes are uint8 or uint16 that stand for 0 to 1.
    """
    if spec.operator not in ESTIMATES or not stacks(spec):
        return _estimate_of_samples(spec, shape, dtype, channels, unit_scale=unit_scale)
    whole = sizes_of(spec, shape, dtype)
    result_bytes = whole.result_bytes + whole.results * (4 - result_dtype(spec, dtype).itemsize) * unit_scale
    if whole.values == 0 or whole.results == 0:
        return Estimate("empty", c.CALL, 0, result_bytes)
    size = _group_size(spec, whole)
    if spec.differs_by_channel:
        size = max(1, size // channels) * channels
    estimate = _scaled_estimate if unit_scale else _estimate
    if whole.planes <= size:
        return estimate(spec, whole)
    group = estimate(spec, sizes_of(spec, (size, *shape[1:]), dtype))
    steps = whole.planes / size * group.steps + c.COPY * result_bytes
    # The whole result, to which each group's is copied, is made after the first group. The result of the group before
    # exists until the next one is complete.
    second = min(1.0, whole.planes / size - 1)
    peak = max(group.peak_bytes, result_bytes + group.result_bytes + second * group.peak_bytes)
    return Estimate(group.algorithm, steps, peak - result_bytes, result_bytes)


def _estimate_of_samples(
    spec: PoolSpec, shape: tuple[int, ...], dtype: np.dtype, channels: int, *, unit_scale: bool
) -> Estimate:
    """Estimate a spec whose operator pools one sample at a time, and each layer of a sequence."""
    if not shape[0]:
        return Estimate("empty", c.CALL, 0, 0)
    count = shape[0] // channels
    # Each sample costs the same, whatever its rows of the parameters are.
    spec = spec.of_samples(slice(1))
    computed = _FLOAT32 if unit_scale else dtype
    steps, held = 0.0, 0.0
    if unit_scale:
        values = math.prod(shape)
        steps, held = c.CONVERSION * values, 4.0 * values
    if not isinstance(spec, SEQUENCES):
        one = _estimate_of_sample(spec, (channels, *shape[1:]), computed)
        result = count * one.result_bytes
        # The results of samples are copied to those of the request once all are computed.
        work = held + one.work_bytes + result * (count > 1)
        return Estimate("samples", c.CALL + steps + count * one.steps + c.COPY * result, work, result)
    taken, peak, result_bytes = (1, channels, *shape[1:]), held, 0.0
    for layer, given in zip(layers_of(spec), layer_shapes(spec, taken), strict=True):
        planes = (count * taken[1], *taken[2:])
        estimate = spec_estimate(layer, planes, computed, channels=taken[1], unit_scale=False)
        steps += estimate.steps
        peak = max(peak, held + estimate.peak_bytes)
        held, result_bytes = estimate.result_bytes, estimate.result_bytes
        taken, computed = given, result_dtype(layer, computed)
    return Estimate("sequence", steps, max(0.0, peak - result_bytes), result_bytes)


def _estimate_of_sample(spec: PoolSpec, shape: tuple[int, ...], dtype: np.dtype) -> Estimate:
    results = math.prod(layer_shape(spec, shape))
    cost = OPERATORS[spec.operator].cost
    if cost is None:
        raise LookupError(f"the operator {spec.operator} has no cost: give it one in the table OPERATORS")
    sample = Sample(shape[0], shape[1:], results)
    steps, floats = cost(spec, sample)
    if dtype not in (_FLOAT32, _FLOAT64) and not spec.keeps_dtype:
        floats += sample.values  # The values in the dtype that they are computed in.
    share = 1.0
    if not spec.takes_samples:
        share = _part_of_channels(sample.spatial, sample.channels)
        floats *= share
    # Integers of more than 8 bits and float64 are computed in float64.
    computed = 8 if dtype.itemsize == 8 or (dtype.kind in "iu" and dtype.itemsize > 1) else 4
    indices = 8 if getattr(spec, "return_indices", False) else 0
    result_bytes = results * (result_dtype(spec, dtype).itemsize + indices)
    # The results of the parts exist until they are copied to that of the sample.
    work = floats * computed + result_bytes * (share < 1)
    steps = steps * computed / 4 + c.SAMPLE / share
    return Estimate("sample", steps, work, result_bytes)


def _part_of_channels(spatial: tuple[int, ...], channels: int) -> float:
    """Return the part of a sample's channels that is pooled at a time if the channels are independent."""
    part = thresholds.SAMPLE_GROUP_BYTES / (4 * channels * math.prod(spatial))
    return min(1.0, max(part, 1 / channels))


def _scaled_estimate(spec: PoolSpec, sizes: Sizes) -> Estimate:
    """Estimate a spec on uint8 or uint16 that stand for 0 to 1."""
    shape = (sizes.planes, *sizes.spatial)
    if spec.operator == "lp_pool" or (
        spec.operator in ORDER_STATISTICS
        and isinstance(spec, WindowSpec)
        and not Geometry(spec.window, sizes.spatial).holds_input
    ):
        algorithm, steps, work, result = _estimate(spec, sizes_of(spec, shape, _FLOAT32))
        return Estimate(algorithm, steps + c.CONVERSION * sizes.values, work + 4 * sizes.values, result)
    algorithm, steps, work, result = _estimate(spec, sizes)
    unscaled = sizes.results * result_dtype(spec, sizes.dtype).itemsize
    scaled = result - unscaled + 4 * sizes.results
    return Estimate(algorithm, steps + sizes.results, max(work + result - scaled, unscaled), scaled)


def _estimate_of_int32(spec: PoolSpec, sizes: Sizes) -> Estimate:
    """Estimate a spec on uint16, which is pooled as int32."""
    algorithm, steps, work, result = _estimate(spec, sizes_of(spec, (sizes.planes, *sizes.spatial), _INT32))
    steps += c.CONVERSION * sizes.values
    peak = 4 * sizes.values + work + result
    if spec.operator in ORDER_STATISTICS:
        steps += c.CONVERSION * sizes.results
        peak = max(peak, result + 2 * sizes.results)
    return Estimate(algorithm, steps, peak - sizes.result_bytes, sizes.result_bytes)


def _estimate(spec: PoolSpec, sizes: Sizes) -> Estimate:
    if sizes.dtype == _UINT16:
        return _estimate_of_int32(spec, sizes)
    return ESTIMATES[spec.operator](spec, sizes)


def _group_size(spec: PoolSpec, whole: Sizes) -> int:
    """Return how many planes are pooled at a time."""
    plane = math.prod(whole.spatial) * whole.width
    if isinstance(spec, GlobalSpec) and (spec.operator in ORDER_STATISTICS or whole.dtype.kind == "f"):
        return (
            whole.planes
            if (not whole.half and whole.dtype.itemsize >= 4) or whole.integer
            else max(1, thresholds.TILE_GROUP_BYTES // plane)
        )
    group = thresholds.WINDOW_GROUP_BYTES if isinstance(spec, WindowSpec) else thresholds.TILE_GROUP_BYTES
    return max(1, group // max(plane, whole.result_bytes // whole.planes, 1))
