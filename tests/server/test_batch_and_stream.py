"""PoolBatch and PoolStream over raw gRPC: an outcome for each item, and flow control."""

import itertools
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from google.rpc import code_pb2, error_details_pb2

from poolservice.v1 import pool_pb2 as pb
from poolservice.v1.pool_pb2_grpc import PoolServiceStub
from poolservice_server.core.service import MAX_BATCH_ITEMS, STREAM_WINDOW_ITEMS

GAP = pb.PoolSpec(spatial_dims=2, global_avg_pool=pb.GlobalAvgPool())
WRONG = pb.PoolRequest(specs=[GAP], image=pb.Image(data=b"no picture"))


def request(number: int, side: int = 2) -> pb.PoolRequest:
    """A request whose answer is its own number."""
    x = np.full((1, side, side), number, np.float32)
    return pb.PoolRequest(specs=[GAP], tensor=pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=x.shape, data=x.tobytes()))


def answer(response: pb.PoolResponse) -> float:
    return float(np.frombuffer(response.results[0].tensor.data, np.float32)[0])


@pytest.fixture
def stub(server_address: str) -> Iterator[PoolServiceStub]:
    with grpc.insecure_channel(server_address) as channel:
        yield PoolServiceStub(channel)


def test_each_item_of_a_batch_has_its_own_outcome(stub: PoolServiceStub) -> None:
    sides = [2, 3, 5, 2, 2]
    requests = [request(number, side) for number, side in enumerate(sides)]
    requests.insert(2, WRONG)
    results = stub.PoolBatch(pb.PoolBatchRequest(requests=requests)).results
    assert [result.status.code for result in results] == [0, 0, code_pb2.INVALID_ARGUMENT, 0, 0, 0]
    assert not results[2].HasField("response")
    violation = error_details_pb2.BadRequest()
    assert results[2].status.details[0].Unpack(violation)
    assert violation.field_violations[0].field == "image.data"
    good = [result for result in results if result.status.code == 0]
    assert [answer(result.response) for result in good] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert all(result.response.execution.device == "cpu" for result in good)


def test_an_empty_batch_has_no_outcomes(stub: PoolServiceStub) -> None:
    assert len(stub.PoolBatch(pb.PoolBatchRequest()).results) == 0


def test_a_batch_of_too_many_items_is_refused(stub: PoolServiceStub) -> None:
    with pytest.raises(grpc.RpcError, match=str(MAX_BATCH_ITEMS)) as refused:
        stub.PoolBatch(pb.PoolBatchRequest(requests=[request(0)] * (MAX_BATCH_ITEMS + 1)))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_stream_answers_every_item_by_its_id(stub: PoolServiceStub) -> None:
    count = 500
    items = [
        pb.PoolStreamRequest(
            correlation_id=7 * number, request=WRONG if number % 50 == 3 else request(number, 2 + number % 3)
        )
        for number in range(count)
    ]
    replies = {reply.correlation_id: reply for reply in stub.PoolStream(iter(items))}
    assert len(replies) == count
    for number in range(count):
        reply = replies[7 * number]
        if number % 50 == 3:
            assert reply.status.code == code_pb2.INVALID_ARGUMENT
            assert not reply.HasField("response")
        else:
            assert reply.status.code == 0
            assert answer(reply.response) == number


def test_an_item_without_a_request_fails_alone(stub: PoolServiceStub) -> None:
    items = [pb.PoolStreamRequest(correlation_id=1), pb.PoolStreamRequest(correlation_id=2, request=request(5))]
    replies = {reply.correlation_id: reply for reply in stub.PoolStream(iter(items))}
    assert replies[1].status.code == code_pb2.INVALID_ARGUMENT
    assert answer(replies[2].response) == 5.0


def test_what_is_no_item_ends_the_stream_in_words(server_address: str) -> None:
    with grpc.insecure_channel(server_address) as channel:
        call: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(
            "/poolservice.v1.PoolService/PoolStream"
        )
        with pytest.raises(grpc.RpcError, match="PoolStreamRequest") as refused:
            list(call(iter([b"\xff\xff"])))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_stream_that_is_read_as_it_is_written_goes_on_for_ever(stub: PoolServiceStub) -> None:
    to_send: queue.Queue[pb.PoolStreamRequest | None] = queue.Queue()
    replies = stub.PoolStream(iter(to_send.get, None))
    for number in range(200):
        to_send.put(pb.PoolStreamRequest(correlation_id=number, request=request(number)))
        reply = next(replies)
        assert (reply.correlation_id, answer(reply.response)) == (number, float(number))
    to_send.put(None)
    assert list(replies) == []


def test_a_caller_that_does_not_read_costs_no_more_than_its_window(start_server: Callable[..., Any]) -> None:
    server = start_server()
    memory = psutil.Process(server.process.pid).memory_info
    x = np.zeros((64, 64, 64), np.float32)
    echo = pb.PoolRequest(
        specs=[pb.PoolSpec(spatial_dims=2, max_pool=pb.MaxPool(kernel_size=[1]))],
        tensor=pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=x.shape, data=x.tobytes()),
    )
    taken = 0
    stalled = threading.Event()

    def items() -> Iterator[pb.PoolStreamRequest]:
        nonlocal taken
        for number in itertools.count():
            taken = number
            yield pb.PoolStreamRequest(correlation_id=number, request=echo)

    with grpc.insecure_channel(server.address) as channel:
        stub = PoolServiceStub(channel)
        replies = stub.PoolStream(items())
        next(replies)
        # Nothing more is read. What the server takes ends with its window; a second look sees no more.
        before = -1
        while before != taken:
            before = taken
            stalled.wait(2.0)
        megabytes = memory().rss / 2**20
        # The window, and what gRPC itself holds in its buffers on the way.
        assert taken <= 2 * STREAM_WINDOW_ITEMS + 64
        assert megabytes < 1500
        # Another caller is served meanwhile.
        assert answer(stub.Pool(request(3), timeout=20)) == 3.0
        replies.cancel()
