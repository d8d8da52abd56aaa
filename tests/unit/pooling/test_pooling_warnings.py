"""No values of a caller cause a warning of numpy, which would reach the server's log."""

import warnings
from collections.abc import Callable, Iterator
from random import Random

import numpy as np
import pytest
import torch

from poolservice.dtypes import NUMPY_DTYPES
from poolservice.specs import LAYERS, PoolSpec, WindowSpec
from poolservice.v1 import pool_pb2
from poolservice_server.batcher import Completed
from poolservice_server.core.output_options import OutputFormat, OutputOptions
from poolservice_server.core.response_builder import ResponseBuilder, ResultFormat
from poolservice_server.pool_stage import PoolStage, SpecResult
from poolservice_server.pooling import run_on_arrays
from poolservice_server.pooling.dispatch import KERNELS
from poolservice_server.pooling.interop import to_array


@pytest.fixture(autouse=True)
def _warnings_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def extremes_of(dtype: torch.dtype, shape: tuple[int, ...], random: Random) -> torch.Tensor:
    """Return values that are extremes of their dtype, NaN, infinite or zero."""
    generator = torch.Generator().manual_seed(random.getrandbits(32))
    if dtype.is_floating_point:
        info = torch.finfo(dtype)
        values = [float("nan"), float("inf"), float("-inf"), info.max, -info.max, info.tiny, -0.0, 0.0, 1.0]
        chosen = random.choice((values, values[1:3], values[3:4], values[3:], values[5:6], values[:1]))
        table = torch.tensor(chosen, dtype=torch.float64)
    else:
        integers = torch.iinfo(dtype)
        low, high = integers.min, integers.max
        table = torch.tensor(random.choice(([low, high, 0], [high], [low])), dtype=torch.int64)
    return table[torch.randint(len(table), shape, generator=generator)].to(dtype)


@pytest.mark.parametrize("operator", KERNELS)
@pytest.mark.parametrize("dtype", NUMPY_DTYPES.values(), ids=NUMPY_DTYPES)
@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
def test_extreme_values_are_pooled_without_a_warning(
    operator: str, dtype: np.dtype, large: bool, random_case: Callable[..., tuple[PoolSpec, tuple[int, ...]]]
) -> None:
    random = Random(f"{operator} {dtype} {large}")
    for _ in range(3 if large else 25):
        spec, shape = random_case(random, operator, large=large)
        planes = to_array(extremes_of(getattr(torch, dtype.name), shape, random).flatten(0, -spec.spatial_dims - 1))
        assert planes.dtype == dtype
        run_on_arrays(PoolStage((spec,)), planes)
        if dtype in (np.uint8, np.uint16):
            run_on_arrays(PoolStage((spec,), unit_scale=True), planes)


@pytest.mark.parametrize("operator", [name for name in KERNELS if issubclass(LAYERS[name, 1], WindowSpec)])
@pytest.mark.parametrize("dtype", NUMPY_DTYPES.values(), ids=NUMPY_DTYPES)
def test_extreme_values_slide_through_large_windows_without_a_warning(operator: str, dtype: np.dtype) -> None:
    random = Random(f"{operator} {dtype}")
    layer = LAYERS[operator, 1]
    powers = (1.0, 2.0, 0.5, -1.5) if operator == "lp_pool" else (None,)
    for power in powers:
        spec = layer(kernel_size=300, stride=1, **({} if power is None else {"norm_type": power}))  # type: ignore[call-arg]
        for _ in range(8):
            planes = to_array(extremes_of(getattr(torch, dtype.name), (2, 2000), random))
            run_on_arrays(PoolStage((spec,)), planes)


@pytest.mark.parametrize("dtype", [dtype for dtype in NUMPY_DTYPES.values() if dtype.kind not in "iu"])
@pytest.mark.parametrize("output_format", ["tensor", "features", "image"])
def test_extreme_values_are_sent_in_any_form_without_a_warning(dtype: np.dtype, output_format: OutputFormat) -> None:
    random = Random(f"{dtype} {output_format}")
    for l2_normalize in (False, True)[: 1 + (output_format == "features")]:
        for sent in (dtype, np.dtype(np.float16))[: 1 + (output_format != "image")]:
            for _ in range(30):
                values = to_array(extremes_of(getattr(torch, dtype.name), (1, 3, 4), random))
                sent_shape = (12,) if output_format == "features" else values.shape
                builder = ResponseBuilder(
                    OutputOptions(output_format, l2_normalize, sent != dtype),
                    [ResultFormat.create(values.shape, sent_shape, sent)],
                    on_thread=False,
                )
                builder.encode(Completed((SpecResult(values),), "cpu", 1, 0.0, 0.0))


def test_a_feature_vector_with_infinities_is_normalized_as_in_torch() -> None:
    for values in ([np.inf, 1.0, -2.0], [np.inf, -np.inf, 0.0], [np.nan, 1.0, 0.0], [1.7e308, 1.7e308, 0.0]):
        vector = np.array(values)
        builder = ResponseBuilder(
            OutputOptions("features", True, False), [ResultFormat.create((3,), (3,), vector.dtype)], on_thread=False
        )
        response = pool_pb2.PoolResponse.FromString(
            builder.encode(Completed((SpecResult(vector),), "cpu", 1, 0.0, 0.0))
        )
        expected = torch.nn.functional.normalize(torch.from_numpy(vector), dim=0).numpy()
        np.testing.assert_array_equal(np.frombuffer(response.results[0].tensor.data), expected)
