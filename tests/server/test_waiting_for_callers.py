"""Callers that send slowly, do not read, leave, or call while the server stops."""

import asyncio
import signal
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from http2_connection import Http2Connection, connect, grpc_message
from poolservice.v1 import pool_pb2 as pb
from poolservice.v1.pool_pb2_grpc import PoolServiceStub
from poolservice_server.grpc_adapter import private_names
from poolservice_server.testing import Service

TIMEOUT_SECONDS = 60
POOL = "/poolservice.v1.PoolService/Pool"
STREAM = "/poolservice.v1.PoolService/PoolStream"
StartServer = Callable[..., Service]


def large_response(side: int = 1024) -> pb.PoolRequest:
    """Return a small request whose response has `side` * `side` * 4 bytes."""
    spec = pb.PoolSpec(spatial_dims=2, adaptive_avg_pool=pb.AdaptiveAvgPool(output_size=[side]))
    return pb.PoolRequest(
        specs=[spec], tensor=pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=[1, 4, 4], data=bytes(4 * 4 * 4))
    )


async def pool(connection: Http2Connection, request: pb.PoolRequest) -> int:
    """Send a request and return its stream."""
    number = connection.call(POOL)
    await connection.send_data(number, grpc_message(request.SerializeToString()), end=True)
    return number


async def ended(connection: Http2Connection, number: int) -> Any:
    """Wait until the server has ended a stream, and return what it sent."""
    await asyncio.wait_for(connection.streams[number].ended.wait(), TIMEOUT_SECONDS)
    return connection.streams[number]


async def first_ended(calls: list[tuple[Http2Connection, int]], count: int) -> list[Any]:
    """Wait until at least `count` of these calls have ended, and return their streams."""
    pending = {asyncio.ensure_future(ended(*call)) for call in calls}
    streams: list[Any] = []
    while len(streams) < count:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        streams += [one.result() for one in done]
    for one in pending:
        one.cancel()
    return streams


@pytest.mark.skipif(
    bool(private_names.missing("multi_accept_server")), reason="grpc.aio's own server cannot drop an unread response"
)
async def test_a_response_that_is_not_read_in_time_is_dropped(start_server: StartServer) -> None:
    server = start_server("--send-timeout", "0.5")
    async with connect(server.address, window=0) as connection:
        stream = await ended(connection, await pool(connection, large_response()))
        assert stream.nbytes == 0
    assert "dropping an unread response" in server.log()


async def test_a_caller_that_does_not_read_is_refused_and_others_are_not(
    start_server: StartServer, small_request: pb.PoolRequest
) -> None:
    server = start_server("--max-unread-bytes", str(12 * 2**20))
    async with connect(server.address, window=0) as connection, connect(server.address) as other:
        # The first is unread from some time on: then the next is refused. Those in between are admitted.
        refused = None
        while refused is None:
            await pool(connection, large_response())
            assert (await ended(other, await pool(other, small_request))).status == 0
            refused = next((one for one in connection.streams.values() if one.ended.is_set()), None)
        assert refused.status == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
        assert b"--max-unread-bytes" in refused.trailers
        assert (await ended(other, await pool(other, small_request))).status == 0


async def test_the_server_refuses_more_calls_than_its_limit(start_server: StartServer) -> None:
    server = start_server("--max-calls", "3", "--caller-max-calls", "3")
    async with connect(server.address) as connection:
        (refused,) = await first_ended([(connection, connection.call(STREAM)) for _ in range(4)], 1)
        assert refused.status == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
        assert b"the server has 3 calls in progress, its limit" in refused.trailers
        assert b"--max-calls" in refused.trailers


@pytest.mark.parametrize("flags", [(), ("--plain-server",)])
async def test_a_caller_with_its_share_of_the_calls_is_refused_and_others_are_not(
    start_server: StartServer, small_request: pb.PoolRequest, flags: tuple[str, ...]
) -> None:
    # Seven eighths of the calls.
    server = start_server("--max-calls", "8", *flags)
    async with connect(server.address) as connection, connect(server.address) as other:
        numbers = [connection.call(STREAM) for _ in range(9)]
        for stream in await first_ended([(connection, number) for number in numbers], 2):
            assert stream.status == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
            assert b"this caller has 7 calls in progress" in stream.trailers
            assert b"allows each caller 7 (--caller-max-calls)" in stream.trailers
        assert (await ended(other, await pool(other, small_request))).status == 0
        # A call that its caller leaves gives its place to the next one.
        in_progress = [number for number in numbers if not connection.streams[number].ended.is_set()]
        assert len(in_progress) == 7
        connection.reset(in_progress[0])
        while (await ended(connection, await pool(connection, small_request))).status != 0:
            pass


async def test_connections_with_one_token_are_one_caller(start_server: StartServer, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("first\nsecond\n")
    server = start_server("--auth-token-file", str(tokens), "--caller-max-calls", "1")
    first, second = ([(b"authorization", b"Bearer " + token)] for token in (b"first", b"second"))
    async with connect(server.address) as one, connect(server.address) as another:
        (refused,) = await first_ended([(one, one.call(STREAM, first)), (another, another.call(STREAM, first))], 1)
        assert refused.status == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
        number = another.call(POOL, second)
        await another.send_data(number, grpc_message(b"\xff"), end=True)
        assert (await ended(another, number)).status == grpc.StatusCode.INVALID_ARGUMENT.value[0]


async def test_a_message_that_does_not_arrive_in_time_ends_its_call(start_server: StartServer) -> None:
    server = start_server("--receive-timeout", "0.5")
    async with connect(server.address) as connection:
        for path in (POOL, STREAM):
            number = connection.call(path)
            await connection.send_data(number, grpc_message(b"x", length=1000))
            stream = await ended(connection, number)
            assert stream.status == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
            assert b"--receive-timeout" in stream.trailers


@pytest.mark.parametrize("flags", [(), ("--plain-server",)])
async def test_a_call_without_a_token_is_refused_before_its_message_arrives(
    start_server: StartServer, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("secret\n")
    server = start_server("--auth-token-file", str(tokens), *flags)
    async with connect(server.address) as connection:
        for path in (POOL, STREAM):
            stream = await ended(connection, connection.call(path))
            assert stream.status == grpc.StatusCode.UNAUTHENTICATED.value[0]
        number = connection.call(POOL, [(b"authorization", b"Bearer secret")])
        await connection.send_data(number, grpc_message(b"\xff"), end=True)
        assert (await ended(connection, number)).status == grpc.StatusCode.INVALID_ARGUMENT.value[0]


async def test_a_call_without_a_message_is_refused(server_address: str) -> None:
    async with connect(server_address) as connection:
        number = connection.call(POOL)
        connection.send(b"\x00\x00\x00\x00\x01" + number.to_bytes(4, "big"))
        stream = await ended(connection, number)
    assert stream.status == grpc.StatusCode.INVALID_ARGUMENT.value[0]


async def test_streams_that_their_callers_leave_count_as_cancelled(start_server: StartServer) -> None:
    from abandoned_streams import attack  # its attack fails if the server counts an error of its own
    from target import Target

    server = start_server("--metrics-address", "127.0.0.1:0")
    url = server.log().split("url=")[1].split()[0]
    assert "'CANCELLED'" in await attack(Target(server.address, url, server.process.pid), 0.5)
    assert "Traceback" not in server.log()
    assert "[error" not in server.log()


def test_a_deadline_that_passes_logs_no_error(start_server: StartServer) -> None:
    server = start_server()
    with grpc.insecure_channel(server.address) as channel:
        stub = PoolServiceStub(channel)
        for milliseconds in range(1, 40):
            with pytest.raises(grpc.RpcError):
                stub.Pool(large_response(3900), timeout=milliseconds / 1000)
        stub.Pool(large_response(8), timeout=TIMEOUT_SECONDS)
    assert "[error" not in server.log()


def test_calls_while_the_server_stops_get_unavailable(start_server: StartServer, small_request: pb.PoolRequest) -> None:
    server = start_server()
    codes: Counter[grpc.StatusCode] = Counter()
    served = threading.Semaphore(0)
    ended_server = threading.Event()

    def call_repeatedly() -> None:
        with grpc.insecure_channel(server.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub = PoolServiceStub(channel)
            while not ended_server.is_set():
                try:
                    stub.Pool(small_request, timeout=TIMEOUT_SECONDS)
                    served.release()
                except grpc.RpcError as error:
                    codes[error.code()] += 1

    callers = [threading.Thread(target=call_repeatedly) for _ in range(8)]
    for caller in callers:
        caller.start()
    for _ in range(100):
        assert served.acquire(timeout=TIMEOUT_SECONDS)
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(TIMEOUT_SECONDS)
    ended_server.set()
    for caller in callers:
        caller.join()
    assert set(codes) == {grpc.StatusCode.UNAVAILABLE}
    assert "accept4" not in server.log()


def test_a_stream_that_is_open_when_the_server_stops_gets_a_reason(start_server: StartServer) -> None:
    server = start_server()
    proceed = threading.Event()

    def requests() -> Any:
        yield pb.PoolStreamRequest(correlation_id=1, request=large_response(8))
        proceed.wait(TIMEOUT_SECONDS)

    with grpc.insecure_channel(server.address) as channel:
        responses = PoolServiceStub(channel).PoolStream(requests())
        assert next(responses).correlation_id == 1
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError, match="the server is stopping") as stopped:
            next(responses)
        proceed.set()
    assert stopped.value.code() is grpc.StatusCode.UNAVAILABLE
