"""Calls, batches, streams and errors of the service on Ray are those of a server without Ray."""

import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from google.rpc import code_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.ray.conftest import MAX_MESSAGE_BYTES, RayService

from poolservice.v1 import pool_pb2 as pb
from poolservice.v1.pool_pb2_grpc import PoolServiceStub
from poolservice_client import GlobalAvgPool2d, LPPool2d, MaxPool2d, PoolClient, PoolError
from poolservice_client.errors import DeadlineExceeded

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore")]

GAP = pb.PoolSpec(spatial_dims=2, global_avg_pool=pb.GlobalAvgPool())
WRONG_WINDOW = pb.PoolSpec(spatial_dims=2, max_pool=pb.MaxPool(kernel_size=[9]))
INVALID = pb.PoolRequest(specs=[GAP], image=pb.Image(data=b"not an image"))

# So that errors are equal, which have the id of their call.
SAME_ID = (("x-request-id", "same"),)

Details = tuple[grpc.StatusCode, str, status_pb2.Status]


def request(number: int, side: int = 2) -> pb.PoolRequest:
    """Return a request whose result is its own number."""
    x = np.full((1, side, side), number, np.float32)
    return pb.PoolRequest(specs=[GAP], tensor=pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=x.shape, data=x.tobytes()))


def result(response: pb.PoolResponse) -> float:
    return float(np.frombuffer(response.results[0].tensor.data, np.float32)[0])


@pytest.fixture
def stub(ray_service: RayService) -> Iterator[PoolServiceStub]:
    with grpc.insecure_channel(ray_service.address) as channel:
        yield PoolServiceStub(channel)


@pytest.fixture
def plain_stub(plain_address: str) -> Iterator[PoolServiceStub]:
    with grpc.insecure_channel(plain_address) as channel:
        yield PoolServiceStub(channel)


@pytest.fixture
def client(ray_service: RayService) -> Iterator[PoolClient]:
    with PoolClient(ray_service.address) as client:
        yield client


def failure(call: Callable[[], object]) -> Details:
    """Return code, message and details of a call that fails."""
    with pytest.raises(grpc.RpcError) as failed:
        call()
    error: Any = failed.value
    details = dict(error.trailing_metadata()).get("grpc-status-details-bin", b"")
    return error.code(), error.details(), status_pb2.Status.FromString(details)


def test_results_of_an_image_equal_those_without_ray(client: PoolClient, plain_address: str, photograph: Path) -> None:
    specs = [MaxPool2d(8), LPPool2d(2.0, 9)]
    with PoolClient(plain_address) as plain:
        expected = plain.pool(photograph, specs)
    for value, other in zip(client.pool(photograph, specs), expected, strict=True):
        np.testing.assert_array_equal(value, other)


def test_map_sends_batches(client: PoolClient) -> None:
    rows = [np.full((2, 3, 3), number, np.float32) for number in range(500)]
    results = list(client.map(rows, GlobalAvgPool2d(), output="features"))
    assert [row[0] for row in results] == list(range(500))


def test_each_request_of_a_batch_has_the_outcome_of_a_server_without_ray(
    stub: PoolServiceStub, plain_stub: PoolServiceStub
) -> None:
    batch = pb.PoolBatchRequest(requests=[request(1), INVALID, request(2)])
    outcomes, expected = (one.PoolBatch(batch, metadata=SAME_ID).results for one in (stub, plain_stub))
    assert [one.status for one in outcomes] == [one.status for one in expected]
    assert [result(outcomes[index].response) for index in (0, 2)] == [1.0, 2.0]


@pytest.mark.parametrize(
    "message",
    [
        INVALID,
        pb.PoolRequest(),
        pb.PoolRequest(specs=[WRONG_WINDOW], tensor=request(0).tensor),
        pb.PoolRequest(specs=[GAP], tensor=pb.Tensor(data=bytes(MAX_MESSAGE_BYTES))),
        pb.PoolRequest(specs=[GAP], tensor=pb.Tensor(data=bytes(3 * MAX_MESSAGE_BYTES))),
    ],
    ids=["an image in no known format", "an empty message", "a window too large", "too large", "over gRPC's limit"],
)
def test_errors_have_code_message_and_details_of_a_server_without_ray(
    stub: PoolServiceStub, plain_stub: PoolServiceStub, message: pb.PoolRequest
) -> None:
    error, expected = (failure(partial(one.Pool, message, metadata=SAME_ID)) for one in (stub, plain_stub))
    assert error == expected


def test_a_call_without_a_message_is_refused(ray_service: RayService) -> None:
    with grpc.insecure_channel(ray_service.address) as channel:
        method: Any = channel.stream_unary("/poolservice.v1.PoolService/Pool")
        code, message, _ = failure(lambda: method(iter(())))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "without a message" in message


def test_a_deadline_that_passes_ends_the_call(client: PoolClient) -> None:
    planes = np.zeros((3, 128, 128), np.float32)
    with pytest.raises(DeadlineExceeded):
        client.pool(planes, MaxPool2d(2), timeout=0.0005)
    assert client.pool(planes, MaxPool2d(2)).shape == (3, 64, 64)


def test_a_stream_responds_to_every_request_by_its_correlation_id(stub: PoolServiceStub) -> None:
    requests = [
        pb.PoolStreamRequest(correlation_id=7 * number, request=INVALID if number % 50 == 3 else request(number))
        for number in range(200)
    ]
    responses = {response.correlation_id: response for response in stub.PoolStream(iter(requests))}
    assert len(responses) == 200
    for number in range(200):
        response = responses[7 * number]
        if number % 50 == 3:
            assert response.status.code == code_pb2.INVALID_ARGUMENT
        else:
            assert result(response.response) == number


def test_a_message_that_is_no_request_ends_a_stream_as_without_ray(ray_service: RayService, plain_address: str) -> None:
    def end(address: str) -> Details:
        with grpc.insecure_channel(address) as channel:
            method: Any = channel.stream_stream("/poolservice.v1.PoolService/PoolStream")
            return failure(lambda: list(method(iter([b"\xff\xff"]), metadata=SAME_ID)))

    assert end(ray_service.address) == end(plain_address)


def test_server_info_equals_that_of_a_server_without_ray(client: PoolClient, plain_address: str) -> None:
    with PoolClient(plain_address) as plain:
        expected = plain.server_info()
    assert client.server_info() == expected


def test_health_is_that_of_a_replica(ray_service: RayService, client: PoolClient) -> None:
    assert client.health()
    with grpc.insecure_channel(ray_service.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", "poolservice.v1.PoolService", "liveness"):
            status = health.Check(health_pb2.HealthCheckRequest(service=name)).status
            assert status == health_pb2.HealthCheckResponse.SERVING
        code, message, _ = failure(lambda: health.Check(health_pb2.HealthCheckRequest(service="nothing")))
    assert code is grpc.StatusCode.NOT_FOUND
    assert 'ask for "poolservice.v1.PoolService", "liveness", or "backbone/NAME"' in message


def own_address() -> str:
    """Return an address of this machine that is not of a loopback interface."""
    for addresses in psutil.net_if_addrs().values():
        for address in addresses:
            if address.family == socket.AF_INET and not address.address.startswith("127."):
                return address.address
    pytest.skip("this machine has a loopback interface only")


def test_calls_of_other_machines_are_refused(ray_service: RayService) -> None:
    port = ray_service.address.rpartition(":")[2]
    with PoolClient(f"{own_address()}:{port}") as client, pytest.raises(PoolError, match="own machine only"):
        client.pool(np.zeros((1, 2, 2), np.float32), GlobalAvgPool2d())
