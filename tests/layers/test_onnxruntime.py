"""Layers that are operators of ONNX, compared with onnxruntime, which runs models of one node."""

import math
from collections.abc import Mapping
from random import Random
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper
from tests.layers.test_every_layer import pooled

from poolservice import specs
from poolservice.specs import (
    GlobalAvgPool2d,
    GlobalMaxPool2d,
    LSEPool2d,
    MedianPool2d,
    PoolSpec,
    RankPool2d,
    RoIAlign2d,
    RoIPool2d,
)
from poolservice_server.operator_shapes import output_shape
from poolservice_server.pool_stage import PoolStage
from poolservice_server.pooling import run_on_arrays

Array = np.ndarray[Any, Any]

CASES = range(40)

#: The version of ONNX's operators. Before it, the size of a result could count windows that start in the padding.
OPSET = 22
#: The operators of which onnxruntime has an older version only.
OLDER = {"GlobalLpPool": 2, "MaxRoiPool": 1, "RoiAlign": 16}


def onnx_results(operator: str, inputs: Mapping[str, Array], outputs: int = 1, **attributes: Any) -> list[Array]:
    """Return the results of a model that has only this node: the values, and perhaps indices."""
    names = ["values", "indices"][:outputs]
    types = {"values": TensorProto.FLOAT, "indices": TensorProto.INT64}
    graph = helper.make_graph(
        [helper.make_node(operator, list(inputs), names, **attributes)],
        operator,
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in inputs.items()
        ],
        [helper.make_tensor_value_info(name, types[name], None) for name in names],
    )
    opset = OLDER.get(operator, OPSET)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    results: list[Array] = session.run(None, dict(inputs))
    return results


def layer(name: str, dims: int, *args: Any, **named: Any) -> PoolSpec:
    spec: PoolSpec = getattr(specs, f"{name}{dims}d")(*args, **named)
    return spec


def drawn_window(random: Random, spatial: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Return the kernel_size, stride and padding of windows of which at least one is in the plane."""
    kernel = tuple(random.randint(1, min(4, size)) for size in spatial)
    return kernel, tuple(random.randint(1, 4) for _ in spatial), tuple(random.randint(0, size // 2) for size in kernel)


def drawn_samples(random: Random, dims: int) -> Array:
    shape = (2, 3, *(random.randint(3, 14) for _ in range(dims)))
    return np.random.default_rng(random.getrandbits(32)).standard_normal(shape).astype(np.float32)


def assert_close(got: Array, expected: Array, case: str) -> None:
    """Assert that values agree to 1e-5 of the largest of them."""
    assert got.shape == expected.shape, case
    np.testing.assert_allclose(got, expected, 0, 1e-5 * float(np.abs(expected).max()), err_msg=case)


# --- Windows ---


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_avg_pool_is_average_pool(dims: int) -> None:
    for number in CASES:
        random = Random(f"{number} {dims}")
        samples = drawn_samples(random, dims)
        kernel, stride, padding = drawn_window(random, samples.shape[2:])
        ceil_mode, include = random.random() < 0.7, random.random() < 0.5
        spec = layer("AvgPool", dims, kernel, stride, padding, ceil_mode, include)
        [expected] = onnx_results(
            "AveragePool",
            {"samples": samples},
            kernel_shape=kernel,
            strides=stride,
            pads=padding * 2,
            ceil_mode=int(ceil_mode),
            count_include_pad=int(include),
        )
        assert_close(pooled(spec, samples), expected, f"case {number}: {spec} of {samples.shape}")


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_max_pool_has_the_values_and_positions_of_max_pool(dims: int) -> None:
    for number in CASES:
        random = Random(f"{number} {dims}")
        samples = drawn_samples(random, dims)
        spatial = samples.shape[2:]
        kernel, stride, padding = drawn_window(random, spatial)
        dilation = tuple(
            random.randint(1, max(1, min(3, (size - 1) // max(1, one - 1))))
            for size, one in zip(spatial, kernel, strict=True)
        )
        ceil_mode = random.random() < 0.7
        spec = layer("MaxPool", dims, kernel, stride, padding, dilation, True, ceil_mode)
        values, indices = onnx_results(
            "MaxPool",
            {"samples": samples},
            outputs=2,
            kernel_shape=kernel,
            strides=stride,
            pads=padding * 2,
            dilations=dilation,
            ceil_mode=int(ceil_mode),
        )
        case = f"case {number}: {spec} of {samples.shape}"
        result = run_on_arrays(PoolStage.of((spec,), 3), samples.reshape(-1, *spatial))[0]
        assert values.shape == output_shape(spec, samples.shape), case
        assert result.values.tobytes() == values.tobytes(), case
        # ONNX's indices are those of the whole tensor.
        assert result.indices is not None
        planes = indices.reshape(6, -1) - np.arange(6)[:, None] * math.prod(spatial)
        np.testing.assert_array_equal(result.indices.reshape(6, -1), planes, err_msg=case)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_lp_pool_of_magnitudes_is_lp_pool(dims: int) -> None:
    # ONNX takes the power of the magnitude, torch that of the value, which differs if p is odd. ONNX's pads are left
    # out, because LPPool has no padding, as in torch.
    for number in CASES:
        random = Random(f"{number} {dims}")
        samples = drawn_samples(random, dims)
        kernel, stride, _ = drawn_window(random, samples.shape[2:])
        ceil_mode, p = random.random() < 0.7, random.choice([1, 2, 3, 5])
        spec = layer("LPPool", dims, p, kernel, stride, ceil_mode, absolute=True)
        [expected] = onnx_results(
            "LpPool", {"samples": samples}, kernel_shape=kernel, strides=stride, p=p, ceil_mode=int(ceil_mode)
        )
        assert_close(pooled(spec, samples), expected, f"case {number}: {spec} of {samples.shape}")


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_max_unpool_is_max_unpool(dims: int) -> None:
    for number in CASES:
        random = Random(f"{number} {dims}")
        samples = drawn_samples(random, dims)
        spatial = samples.shape[2:]
        kernel, stride, padding = drawn_window(random, spatial)
        maximum = layer("MaxPool", dims, kernel, stride, padding, return_indices=True)
        shape = output_shape(maximum, samples.shape)
        result = run_on_arrays(PoolStage.of((maximum,), 3), samples.reshape(-1, *spatial))[0]
        assert result.indices is not None
        values, indices = result.values.reshape(shape), result.indices.reshape(shape)
        spec = layer("MaxUnpool", dims, indices, kernel, stride, padding, spatial)
        # ONNX's indices are those of the whole tensor.
        planes = indices.reshape(6, -1) + np.arange(6)[:, None] * math.prod(spatial)
        [expected] = onnx_results(
            "MaxUnpool",
            {"maxima": values, "positions": planes.reshape(shape), "size": np.array(samples.shape)},
            kernel_shape=kernel,
            strides=stride,
            pads=padding * 2,
        )
        np.testing.assert_array_equal(pooled(spec, values), expected, err_msg=f"case {number}: {spec}")


# --- Whole planes ---


def test_global_means_and_maxima_are_those_of_onnx() -> None:
    for number in CASES:
        samples = drawn_samples(Random(number), 2)
        [mean] = onnx_results("GlobalAveragePool", {"samples": samples})
        assert_close(pooled(GlobalAvgPool2d(), samples), mean, f"case {number}")
        [maximum] = onnx_results("GlobalMaxPool", {"samples": samples})
        np.testing.assert_array_equal(pooled(GlobalMaxPool2d(), samples), maximum, err_msg=f"case {number}")


@pytest.mark.parametrize("p", [1, 2, 3, 6])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_the_norm_of_a_plane_is_global_lp_pool(dims: int, p: int) -> None:
    samples = drawn_samples(Random(p), dims)
    spatial = samples.shape[2:]
    [expected] = onnx_results("GlobalLpPool", {"samples": samples}, p=p)
    assert_close(pooled(layer("LPPool", dims, p, spatial, absolute=True), samples), expected, "LPPool")
    # The power mean is the norm of the plane, divided by n^(1/p).
    assert_close(
        pooled(layer("PowerAvgPool", dims, p), samples) * math.prod(spatial) ** (1 / p), expected, "PowerAvgPool"
    )


def test_lse_pool_is_reduce_log_sum_exp_minus_the_logarithm_of_the_size() -> None:
    samples = drawn_samples(Random(1), 2)
    axes = np.array([2, 3])
    [expected] = onnx_results("ReduceLogSumExp", {"samples": samples, "axes": axes})
    assert_close(pooled(LSEPool2d(), samples), expected - math.log(math.prod(samples.shape[2:])), "LSEPool")


def test_ranks_of_a_plane_are_those_of_top_k() -> None:
    samples = drawn_samples(Random(2), 2)
    planes = samples.reshape(2, 3, -1)
    count = planes.shape[2]
    values, _ = onnx_results("TopK", {"planes": planes, "k": np.array([count])}, outputs=2)
    for rank in (1, 2, count // 2, count):
        np.testing.assert_array_equal(pooled(RankPool2d(rank, largest=True), samples)[..., 0, 0], values[..., rank - 1])
        np.testing.assert_array_equal(pooled(RankPool2d(rank), samples)[..., 0, 0], values[..., count - rank])
    median = values[..., count - (count + 1) // 2]
    np.testing.assert_array_equal(pooled(MedianPool2d(), samples)[..., 0, 0], median)


# --- Boxes ---


def drawn_boxes(random: Random, count: int, scale: float) -> Array:
    """Return boxes (2, count, 4) in and around a map of at most 14 by 14, some inverted, the first one empty."""
    generator = np.random.default_rng(random.getrandbits(32))
    boxes = generator.uniform(-4, 18, (2, count, 4)) / scale
    boxes[:, 0, 2:] = boxes[:, 0, :2]
    result: Array = boxes.astype(np.float32)
    return result


@pytest.mark.parametrize("aligned", [False, True])
def test_roi_align_is_roi_align(aligned: bool) -> None:
    for number in CASES:
        random = Random(f"{number} {aligned}")
        samples = drawn_samples(random, 2)
        bins = (random.randint(1, 4), random.randint(1, 4))
        ratio, scale = random.randint(0, 3), random.choice([1.0, 0.5, 0.3, 0.0625, 2.0])
        boxes = drawn_boxes(random, 4, scale)
        if not ratio:
            # onnxruntime fails on the negative number of points of an inverted box.
            boxes[..., 2:] = np.maximum(boxes[..., :2], boxes[..., 2:])
        spec = RoIAlign2d(boxes, bins, scale, ratio, aligned)
        [expected] = onnx_results(
            "RoiAlign",
            {"samples": samples, "boxes": boxes.reshape(8, 4), "numbers": np.repeat(np.arange(2), 4)},
            mode="avg",
            coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
            output_height=bins[0],
            output_width=bins[1],
            sampling_ratio=ratio,
            spatial_scale=scale,
        )
        assert_close(pooled(spec, samples), expected.reshape(2, 4, 3, *bins), f"case {number}: {spec}")


def test_roi_pool_is_max_roi_pool() -> None:
    for number in CASES:
        random = Random(number)
        samples = drawn_samples(random, 2)
        bins = (random.randint(1, 4), random.randint(1, 4))
        scale = random.choice([1.0, 0.5, 0.3, 0.0625, 2.0])
        boxes = drawn_boxes(random, 4, scale)
        numbers = np.repeat(np.arange(2, dtype=np.float32), 4)[:, None]
        [expected] = onnx_results(
            "MaxRoiPool",
            {"samples": samples, "boxes": np.concatenate([numbers, boxes.reshape(8, 4)], 1)},
            pooled_shape=bins,
            spatial_scale=scale,
        )
        spec = RoIPool2d(boxes, bins, scale)
        np.testing.assert_array_equal(
            pooled(spec, samples), expected.reshape(2, 4, 3, *bins), err_msg=f"case {number}: {spec}"
        )
