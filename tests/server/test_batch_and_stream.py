"""PoolBatch and PoolStream over raw gRPC: an outcome for each request, and flow control."""

import itertools
import queue
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from google.rpc import code_pb2, error_details_pb2

from poolservice.v1 import pool_pb2 as pb
from poolservice.v1.pool_pb2_grpc import PoolServiceStub
from poolservice_server.core.flow_control import MAX_STREAM_REQUESTS
from poolservice_server.core.service import MAX_BATCH_ITEMS

GAP = pb.PoolSpec(spatial_dims=2, global_avg_pool=pb.GlobalAvgPool())
INVALID = pb.PoolRequest(specs=[GAP], image=pb.Image(data=b"not an image"))


def request(number: int, side: int = 2) -> pb.PoolRequest:
    """Return a request whose result is its own number."""
    x = np.full((1, side, side), number, np.float32)
    return pb.PoolRequest(specs=[GAP], tensor=pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=x.shape, data=x.tobytes()))


def result(response: pb.PoolResponse) -> float:
    return float(np.frombuffer(response.results[0].tensor.data, np.float32)[0])


@pytest.fixture
def stub(server_address: str) -> Iterator[PoolServiceStub]:
    with grpc.insecure_channel(server_address) as channel:
        yield PoolServiceStub(channel)


def test_each_request_of_a_batch_has_its_own_outcome(stub: PoolServiceStub) -> None:
    sides = [2, 3, 5, 2, 2]
    requests = [request(number, side) for number, side in enumerate(sides)]
    requests.insert(2, INVALID)
    results = stub.PoolBatch(pb.PoolBatchRequest(requests=requests)).results
    assert [one.status.code for one in results] == [0, 0, code_pb2.INVALID_ARGUMENT, 0, 0, 0]
    assert not results[2].HasField("response")
    violation = error_details_pb2.BadRequest()
    assert results[2].status.details[0].Unpack(violation)
    assert violation.field_violations[0].field == "image.data"
    good = [one for one in results if one.status.code == 0]
    assert [result(one.response) for one in good] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert all(one.response.execution.device == "cpu" for one in good)


def test_an_empty_batch_has_no_outcomes(stub: PoolServiceStub) -> None:
    assert len(stub.PoolBatch(pb.PoolBatchRequest()).results) == 0


def test_a_batch_of_too_many_requests_is_refused(stub: PoolServiceStub) -> None:
    with pytest.raises(grpc.RpcError, match=str(MAX_BATCH_ITEMS)) as refused:
        stub.PoolBatch(pb.PoolBatchRequest(requests=[request(0)] * (MAX_BATCH_ITEMS + 1)))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_stream_responds_to_every_request_by_its_correlation_id(stub: PoolServiceStub) -> None:
    count = 500
    requests = [
        pb.PoolStreamRequest(
            correlation_id=7 * number, request=INVALID if number % 50 == 3 else request(number, 2 + number % 3)
        )
        for number in range(count)
    ]
    responses = {response.correlation_id: response for response in stub.PoolStream(iter(requests))}
    assert len(responses) == count
    for number in range(count):
        response = responses[7 * number]
        if number % 50 == 3:
            assert response.status.code == code_pb2.INVALID_ARGUMENT
            assert not response.HasField("response")
        else:
            assert response.status.code == 0
            assert result(response.response) == number


def test_a_message_without_a_request_fails_without_ending_the_stream(stub: PoolServiceStub) -> None:
    requests = [pb.PoolStreamRequest(correlation_id=1), pb.PoolStreamRequest(correlation_id=2, request=request(5))]
    responses = {response.correlation_id: response for response in stub.PoolStream(iter(requests))}
    assert responses[1].status.code == code_pb2.INVALID_ARGUMENT
    assert result(responses[2].response) == 5.0


def test_bytes_that_are_not_a_message_end_the_stream_with_an_error(server_address: str) -> None:
    with grpc.insecure_channel(server_address) as channel:
        call: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(
            "/poolservice.v1.PoolService/PoolStream"
        )
        with pytest.raises(grpc.RpcError, match="PoolStreamRequest") as refused:
            list(call(iter([b"\xff\xff"])))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_stream_can_alternate_between_requests_and_responses(stub: PoolServiceStub) -> None:
    to_send: queue.Queue[pb.PoolStreamRequest | None] = queue.Queue()
    responses = stub.PoolStream(iter(to_send.get, None))
    for number in range(200):
        to_send.put(pb.PoolStreamRequest(correlation_id=number, request=request(number)))
        response = next(responses)
        assert (response.correlation_id, result(response.response)) == (number, float(number))
    to_send.put(None)
    assert list(responses) == []


def test_a_caller_that_does_not_read_is_held_back_by_flow_control(start_server: Callable[..., Any]) -> None:
    server = start_server()
    memory = psutil.Process(server.process.pid).memory_info
    x = np.zeros((64, 64, 64), np.float32)
    echo = pb.PoolRequest(
        specs=[pb.PoolSpec(spatial_dims=2, max_pool=pb.MaxPool(kernel_size=[1]))],
        tensor=pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=x.shape, data=x.tobytes()),
    )
    sent = 0

    def send() -> Iterator[pb.PoolStreamRequest]:
        nonlocal sent
        for number in itertools.count():
            sent = number
            yield pb.PoolStreamRequest(correlation_id=number, request=echo)

    with grpc.insecure_channel(server.address) as channel:
        stub = PoolServiceStub(channel)
        responses = stub.PoolStream(send())
        next(responses)
        # The test reads no further response, so the server stops reading requests when its limit is reached. Nothing
        # signals that, so wait until nothing is sent for two seconds. On a busy machine that may be too early, which
        # weakens the bounds below but cannot fail them.
        before = -1
        while before != sent:
            before = sent
            time.sleep(2.0)
        megabytes = memory().rss / 2**20
        # The limit, and what gRPC itself buffers.
        assert sent <= 2 * MAX_STREAM_REQUESTS + 64
        assert megabytes < 1500
        # Another caller is served meanwhile.
        assert result(stub.Pool(request(3), timeout=60)) == 3.0
        responses.cancel()
