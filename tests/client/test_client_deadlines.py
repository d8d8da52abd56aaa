"""Calls that end without a response: at their deadline, or because the client is closed."""

import asyncio
import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from poolservice.codec import Result, Value, encode_response
from poolservice.v1 import pool_pb2
from poolservice_client import AsyncPoolClient, DeadlineExceeded, MaxPool2d, PoolClient, PoolError
from poolservice_client._transport.call_limits import MAX_CONCURRENT_CALLS

Serve = Callable[[Callable[[bytes, grpc.ServicerContext], bytes]], str]

X = np.ones((2, 4, 4), np.float32)
# A valid response for X: a float32 tensor of zeros.
HEAD = pool_pb2.Tensor(dtype=pool_pb2.DATA_TYPE_FLOAT32, shape=(2, 2, 2)).SerializeToString()
RESPONSE = encode_response(
    pool_pb2.Execution(device="cpu"),
    [Result(Value("tensor", HEAD, bytes(32)))],
)


@pytest.fixture
def stuck() -> Iterator[threading.Event]:
    """An event that is set at the end of a test. A server can wait for it to never respond in time."""
    event = threading.Event()
    yield event
    event.set()


async def test_a_call_ends_at_its_deadline(serve: Serve, stuck: threading.Event) -> None:
    def behaviour(request: bytes, context: grpc.ServicerContext) -> bytes:
        stuck.wait(30)
        return b""

    address = serve(behaviour)
    started = time.monotonic()
    with PoolClient(address, timeout=0.2) as client:
        with pytest.raises(DeadlineExceeded, match=rf"{address} gave no response within the timeout of 0.2 s"):
            client.pool(X, MaxPool2d(2))
        with pytest.raises(DeadlineExceeded, match=r"timeout of 0\.1 s"):
            client.pool(X, MaxPool2d(2), timeout=0.1)
    async with AsyncPoolClient(address, timeout=0.2) as aclient:
        with pytest.raises(DeadlineExceeded, match=r"timeout of 0\.2 s"):
            await aclient.pool(X, MaxPool2d(2))
    assert time.monotonic() - started < 10
    stuck.set()


def test_the_timeout_becomes_the_deadline_of_the_grpc_call(serve: Serve) -> None:
    seen: list[float] = []

    def behaviour(request: bytes, context: grpc.ServicerContext) -> bytes:
        seen.append(context.time_remaining())
        return RESPONSE

    with PoolClient(serve(behaviour), timeout=100) as client:
        client.pool(X, MaxPool2d(2))
        client.pool(X, MaxPool2d(2), timeout=50)
        client.pool(X, MaxPool2d(2), timeout=math.inf)
    # gRPC rounds deadlines up to the precision of its header.
    first, second, third = seen
    assert 90 < first < 101
    assert 40 < second < 51
    assert third > 1e9


def test_a_call_on_a_closed_client_fails(server_address: str) -> None:
    client = PoolClient(server_address)
    assert client.health()
    client.close()
    client.close()
    with pytest.raises(PoolError, match="this client is closed"):
        client.pool(X, MaxPool2d(2))


def test_closing_ends_running_calls(serve: Serve, stuck: threading.Event) -> None:
    arrived = threading.Event()

    def behaviour(request: bytes, context: grpc.ServicerContext) -> bytes:
        arrived.set()
        stuck.wait(30)
        return b""

    client = PoolClient(serve(behaviour))
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(client.pool, X, MaxPool2d(2))
        assert arrived.wait(10)
        client.close()
        with pytest.raises(PoolError, match="closed during this call"):
            call.result(10)
    stuck.set()


async def test_a_task_that_gets_no_slot_ends_at_its_deadline(serve: Serve, stuck: threading.Event) -> None:
    def behaviour(request: bytes, context: grpc.ServicerContext) -> bytes:
        stuck.wait(30)
        return RESPONSE

    address = serve(behaviour)
    message = r"found no free slot within its timeout of 0\.2 s"
    async with AsyncPoolClient(address, coalesce=False) as aclient:
        # After one turn of the loop every task has its slot: it runs to its first wait, which is for the response.
        calls = [asyncio.create_task(aclient.pool(X, MaxPool2d(2))) for _ in range(MAX_CONCURRENT_CALLS)]
        await asyncio.sleep(0)
        with pytest.raises(DeadlineExceeded, match=message):
            await aclient.pool(X, MaxPool2d(2), timeout=0.2)
        waiting = asyncio.create_task(aclient.pool(X, MaxPool2d(2)))
        await asyncio.sleep(0)
        stuck.set()
        assert len(await asyncio.gather(*calls, waiting)) == MAX_CONCURRENT_CALLS + 1


def test_a_thread_that_gets_no_slot_ends_at_its_deadline(serve: Serve, stuck: threading.Event) -> None:
    def behaviour(request: bytes, context: grpc.ServicerContext) -> bytes:
        stuck.wait(30)
        return RESPONSE

    message = r"found no free slot within its timeout of 0\.2 s"
    with PoolClient(serve(behaviour), coalesce=False) as client, ThreadPoolExecutor(MAX_CONCURRENT_CALLS) as threads:
        calls = [threads.submit(client.pool, X, MaxPool2d(2)) for _ in range(MAX_CONCURRENT_CALLS)]
        while True:  # until all threads have their slots, this call may get one and fail at its deadline instead
            with pytest.raises(DeadlineExceeded) as raised:
                client.pool(X, MaxPool2d(2), timeout=0.2)
            if re.search(message, str(raised.value)):
                break
        stuck.set()
        assert all(call.result(10).shape == (2, 2, 2) for call in calls)
