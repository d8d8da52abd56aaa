"""The Pool method over raw gRPC with the generated stubs, as a caller without the SDK uses it."""

import io
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from google.rpc import error_details_pb2, status_pb2
from PIL import Image

from poolservice.v1 import pool_pb2 as pb
from poolservice.v1.pool_pb2_grpc import PoolServiceStub

LIMIT = 64 * 2**20
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@pytest.fixture
def stub(server_address: str) -> Iterator[PoolServiceStub]:
    with grpc.insecure_channel(server_address, options=OPTIONS) as channel:
        yield PoolServiceStub(channel)


def tensor(values: np.ndarray) -> pb.Tensor:
    return pb.Tensor(
        dtype=pb.DataType.Value(f"DATA_TYPE_{values.dtype.name.upper()}"), shape=values.shape, data=values.tobytes()
    )


def array(message: pb.Tensor) -> np.ndarray:
    name = pb.DataType.Name(message.dtype).removeprefix("DATA_TYPE_").lower()
    return np.frombuffer(message.data, name).reshape(tuple(message.shape))


def max_spec(kernel: int = 2, **parameters: object) -> pb.PoolSpec:
    return pb.PoolSpec(spatial_dims=2, max_pool=pb.MaxPool(kernel_size=[kernel], **parameters))  # type: ignore[arg-type]


GAP = pb.PoolSpec(spatial_dims=2, global_avg_pool=pb.GlobalAvgPool())


def test_a_tensor_is_pooled_as_by_torch(stub: PoolServiceStub) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 9, 7), dtype=np.float32)
    response = stub.Pool(
        pb.PoolRequest(specs=[max_spec(3, stride=[2], padding=[1], return_indices=True), GAP], tensor=tensor(x))
    )
    expected, indices = F.max_pool2d(torch.from_numpy(x), 3, 2, 1, return_indices=True)
    np.testing.assert_array_equal(array(response.results[0].tensor), expected.numpy())
    np.testing.assert_array_equal(array(response.results[0].indices), indices.numpy())
    np.testing.assert_allclose(array(response.results[1].tensor), x.mean((2, 3), keepdims=True), rtol=1e-5, atol=1e-7)
    assert not response.results[1].HasField("indices")
    assert response.execution.device == "cpu"
    assert response.execution.batch_size >= 1
    assert response.execution.compute_microseconds > 0
    assert response.execution.decode_microseconds == 0


def test_an_image_is_decoded_once_and_pooled_by_each_spec(stub: PoolServiceStub, photograph: Path) -> None:
    image = pb.Image(data=photograph.read_bytes())
    response = stub.Pool(pb.PoolRequest(specs=[max_spec(2), GAP], image=image))
    pixels = torch.from_numpy(np.array(Image.open(photograph).convert("RGB"))).permute(2, 0, 1).float().div(255)
    np.testing.assert_array_equal(array(response.results[0].tensor), F.max_pool2d(pixels, 2).numpy())
    np.testing.assert_allclose(array(response.results[1].tensor), pixels.mean((1, 2), keepdim=True).numpy(), rtol=1e-5)
    assert response.execution.decode_microseconds > 0


def test_an_image_result_is_a_png_file(stub: PoolServiceStub, photograph: Path) -> None:
    request = pb.PoolRequest(
        specs=[max_spec(4)],
        image=pb.Image(data=photograph.read_bytes(), color_mode=pb.COLOR_MODE_GRAY),
        output=pb.OutputOptions(format=pb.OUTPUT_FORMAT_IMAGE),
    )
    result = stub.Pool(request).results[0].image
    assert result.color_mode == pb.COLOR_MODE_GRAY
    with Image.open(io.BytesIO(result.data)) as png:
        pooled = np.array(png)
        assert png.format == "PNG"
    gray = torch.from_numpy(np.array(Image.open(photograph).convert("L")))[None].float()
    np.testing.assert_array_equal(pooled, F.max_pool2d(gray, 4)[0].numpy().astype(np.uint8))


@pytest.mark.parametrize("float16", [False, True])
def test_feature_vectors_are_flat_and_have_unit_length(stub: PoolServiceStub, float16: bool) -> None:
    x = np.random.default_rng(1).standard_normal((4, 8, 6, 6), dtype=np.float32)
    x[2] = 0
    output = pb.OutputOptions(
        format=pb.OUTPUT_FORMAT_FEATURE_VECTOR,
        l2_normalize=True,
        dtype=pb.DATA_TYPE_FLOAT16 if float16 else pb.DATA_TYPE_UNSPECIFIED,
    )
    vectors = array(stub.Pool(pb.PoolRequest(specs=[max_spec(3)], tensor=tensor(x), output=output)).results[0].tensor)
    assert vectors.shape == (4, 8 * 2 * 2)
    assert vectors.dtype == (np.float16 if float16 else np.float32)
    np.testing.assert_allclose(
        np.linalg.norm(vectors.astype(np.float64), axis=1), [1, 1, 0, 1], atol=2e-3 if float16 else 1e-6
    )


def test_an_empty_tensor_gives_an_empty_result(stub: PoolServiceStub) -> None:
    response = stub.Pool(pb.PoolRequest(specs=[max_spec(2)], tensor=tensor(np.zeros((0, 3, 8, 8), np.float32))))
    assert array(response.results[0].tensor).shape == (0, 3, 4, 4)


X = np.ones((3, 8, 8), np.float32)

INVALID = {
    "no specs": (pb.PoolRequest(tensor=tensor(X)), "specs", "1 to 16"),
    "too many specs": (pb.PoolRequest(specs=[GAP] * 17, tensor=tensor(X)), "specs", "got 17"),
    "no payload": (pb.PoolRequest(specs=[GAP]), "payload", "a tensor or an image"),
    "no operator": (
        pb.PoolRequest(specs=[pb.PoolSpec(spatial_dims=2)], tensor=tensor(X)),
        "specs[0].operator",
        "max_pool",
    ),
    "a wrong second spec": (
        pb.PoolRequest(specs=[GAP, max_spec(0)], tensor=tensor(X)),
        "specs[1].max_pool.kernel_size",
        "from 1",
    ),
    "padding over half the kernel": (
        pb.PoolRequest(specs=[max_spec(2, padding=[2])], tensor=tensor(X)),
        "specs[0].max_pool.padding",
        "at most half the kernel",
    ),
    "a kernel larger than the input": (
        pb.PoolRequest(specs=[max_spec(9)], tensor=tensor(X)),
        "specs[0].max_pool.kernel_size",
        "no window fits",
    ),
    "a number of dimensions that does not suit the spec": (
        pb.PoolRequest(specs=[GAP], tensor=tensor(X[0])),
        "tensor.shape",
        r"takes 3 dimensions \(C, height, width\)",
    ),
    "bytes that do not suit the shape": (
        pb.PoolRequest(specs=[GAP], tensor=pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=[3, 8, 8], data=b"abc")),
        "tensor.data",
        "takes 768",
    ),
    "a size below zero": (
        pb.PoolRequest(specs=[GAP], tensor=pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=[-1, 4, 4])),
        "tensor.shape[0]",
        "at least 0",
    ),
    "a shape beyond any memory": (
        pb.PoolRequest(
            specs=[max_spec(1)], tensor=pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=[2**31 - 1] * 3, data=b"x")
        ),
        "tensor.shape",
        "more than any machine holds",
    ),
    "no dtype": (pb.PoolRequest(specs=[GAP], tensor=pb.Tensor(shape=[3, 8, 8])), "tensor.dtype", "DATA_TYPE_FLOAT32"),
    "specs of different dimensions": (
        pb.PoolRequest(specs=[GAP, pb.PoolSpec(spatial_dims=1, global_avg_pool=pb.GlobalAvgPool())], tensor=tensor(X)),
        "specs",
        "same number of dimensions",
    ),
    "not an image": (pb.PoolRequest(specs=[GAP], image=pb.Image(data=b"not an image")), "image.data", "JPEG"),
    "a 3-D spec for an image": (
        pb.PoolRequest(
            specs=[pb.PoolSpec(spatial_dims=3, global_avg_pool=pb.GlobalAvgPool())],
            image=pb.Image(
                data=b"GIF89a\x01\x00\x01\x00\x00\x00\x00,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x01D\x00;"
            ),
        ),
        "image",
        r"takes 4 dimensions \(C, depth, height, width\)",
    ),
    "normalizing a tensor": (
        pb.PoolRequest(specs=[GAP], tensor=tensor(X), output=pb.OutputOptions(l2_normalize=True)),
        "output.l2_normalize",
        "FEATURE_VECTOR",
    ),
    "integers as float16": (
        pb.PoolRequest(
            specs=[max_spec(2)], tensor=tensor(X.astype(np.int32)), output=pb.OutputOptions(dtype=pb.DATA_TYPE_FLOAT16)
        ),
        "output.dtype",
        "int32",
    ),
    "an image result of eight channels": (
        pb.PoolRequest(
            specs=[max_spec(2)],
            tensor=tensor(np.ones((8, 4, 4), np.float32)),
            output=pb.OutputOptions(format=pb.OUTPUT_FORMAT_IMAGE),
        ),
        "output.format",
        "1, 3 or 4 channels",
    ),
}


@pytest.mark.parametrize("case", INVALID)
def test_an_invalid_request_is_refused_with_the_field_and_the_rule(stub: PoolServiceStub, case: str) -> None:
    request, field, message = INVALID[case]
    with pytest.raises(grpc.RpcError, match=message) as refused:
        stub.Pool(request)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    metadata: dict[str, Any] = {item.key: item.value for item in refused.value.trailing_metadata()}
    details = metadata["grpc-status-details-bin"]
    violation = error_details_pb2.BadRequest()
    assert status_pb2.Status.FromString(details).details[0].Unpack(violation)
    assert violation.field_violations[0].field == field


def test_bytes_that_are_not_a_message_are_refused(server_address: str) -> None:
    with grpc.insecure_channel(server_address) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/poolservice.v1.PoolService/Pool")
        with pytest.raises(grpc.RpcError, match=r"poolservice\.v1\.PoolRequest") as refused:
            call(b"\xff\xff\xff")
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_the_error_for_a_message_over_the_limit_says_how_to_raise_it(stub: PoolServiceStub) -> None:
    data = pb.Tensor(dtype=pb.DATA_TYPE_UINT8, shape=[1, 1, LIMIT + 1], data=bytes(LIMIT + 1))
    with pytest.raises(grpc.RpcError, match=rf"{LIMIT}.*--max-message-bytes") as refused:
        stub.Pool(pb.PoolRequest(specs=[GAP], tensor=data))
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_response_over_the_limit_is_refused_before_it_is_computed(stub: PoolServiceStub) -> None:
    x = np.zeros((1, 1024, 1024), np.uint8)
    widening = pb.PoolSpec(spatial_dims=2, adaptive_avg_pool=pb.AdaptiveAvgPool(output_size=[5000]))
    with pytest.raises(grpc.RpcError, match="the response to this request") as refused:
        stub.Pool(pb.PoolRequest(specs=[widening], tensor=tensor(x)))
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_concurrent_callers_each_get_their_own_results(server_address: str) -> None:
    def call_repeatedly(seed: int) -> None:
        choices = random.Random(seed)
        values = np.random.default_rng(seed)
        with grpc.insecure_channel(server_address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub = PoolServiceStub(channel)
            for _ in range(25):
                side = choices.choice([8, 8, 8, 16, 17])
                x = values.standard_normal((choices.randint(1, 5), choices.randint(1, 4), side, side), dtype=np.float32)
                kernel = choices.choice([2, 3])
                response = stub.Pool(pb.PoolRequest(specs=[max_spec(kernel)], tensor=tensor(x)))
                expected = F.max_pool2d(torch.from_numpy(x), kernel).numpy()
                np.testing.assert_array_equal(array(response.results[0].tensor), expected)

    with ThreadPoolExecutor(24) as callers:
        list(callers.map(call_repeatedly, range(24)))
