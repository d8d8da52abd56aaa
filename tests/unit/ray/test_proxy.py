"""The methods in Serve's proxy, on a real gRPC server whose replicas are functions."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2

from poolservice import codec
from poolservice.v1 import pool_pb2 as pb
from poolservice_server.core.flow_control import MAX_STREAM_REQUESTS
from poolservice_server.grpc_adapter.abort import STATUS_DETAILS_KEY
from poolservice_server.ray.proxy import add_health, add_pool_service
from poolservice_server.ray.serve_call import SECONDS_LEFT_KEY, ServeContext

Replica = Callable[[str, bytes, ServeContext], Awaitable[bytes]]

POOL = "/poolservice.v1.PoolService/Pool"
STREAM = "/poolservice.v1.PoolService/PoolStream"


class ServeServer:
    """Replaces the handlers that are added by calls of a replica, as the server of Serve's proxy does."""

    def __init__(self, server: grpc.aio.Server, replica: Replica) -> None:
        self._server = server
        self._replica = replica

    def add_generic_rpc_handlers(self, handlers: Iterable[Any]) -> None:
        (handler,) = handlers
        for name, method in list(handler._method_handlers.items()):
            handler._method_handlers[name] = method._replace(unary_unary=partial(self._replica, name))
        self._server.add_generic_rpc_handlers((handler,))


@asynccontextmanager
async def channel_to(replica: Replica) -> AsyncIterator[Any]:
    """Yield a channel to a server whose methods are Serve's, and whose replicas are `replica`."""
    server = grpc.aio.server()
    add_pool_service(None, ServeServer(server, replica))
    add_health(None, ServeServer(server, replica))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(None)


async def echo(_method: str, message: bytes, _context: ServeContext) -> bytes:
    return message


def failing(code: grpc.StatusCode) -> Replica:
    """Return a replica that Serve cannot reach, for which it sets a code and a traceback."""

    async def fail(_method: str, _message: bytes, context: ServeContext) -> bytes:
        context.set_code(code)
        context.set_details("Traceback: /secret/path")
        return b""

    return fail


async def failure(call: Awaitable[object]) -> tuple[grpc.StatusCode | None, status_pb2.Status]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    details: Any = dict(error.value.trailing_metadata() or ()).get(STATUS_DETAILS_KEY)
    return error.value.code(), status_pb2.Status.FromString(details)


async def test_a_call_reaches_the_method_of_its_name() -> None:
    async def name(method: str, _message: bytes, _context: ServeContext) -> bytes:
        return method.encode()

    async with channel_to(name) as channel:
        for method in (POOL, "/grpc.health.v1.Health/Check"):
            assert await channel.unary_unary(method)(b"") == method.encode()


async def test_the_deadline_travels_in_the_metadata() -> None:
    async def seconds_left(_method: str, _message: bytes, context: ServeContext) -> bytes:
        return str(dict(context.invocation_metadata()).get(SECONDS_LEFT_KEY, "none")).encode()

    async with channel_to(seconds_left) as channel:
        call = channel.unary_unary(POOL)
        # gRPC rounds a timeout when it sends it.
        assert 0 < float(await call(b"", timeout=50.0)) < 60.0
        assert await call(b"") == b"none"


async def test_a_caller_cannot_set_the_deadline_of_the_metadata() -> None:
    async def seconds_left(_method: str, _message: bytes, context: ServeContext) -> bytes:
        return str([value for key, value in context.invocation_metadata() if key == SECONDS_LEFT_KEY]).encode()

    async with channel_to(seconds_left) as channel:
        assert await channel.unary_unary(POOL)(b"", metadata=((SECONDS_LEFT_KEY, "x"),)) == b"[]"


async def test_the_replica_and_the_caller_get_the_same_request_id() -> None:
    async def fail_with_id(_method: str, _message: bytes, context: ServeContext) -> bytes:
        ids = [value for key, value in context.invocation_metadata() if key == "x-request-id"]
        context.set_trailing_metadata([(STATUS_DETAILS_KEY, _status("".join(ids)).SerializeToString())])
        return b""

    async with channel_to(fail_with_id) as channel:
        for metadata in (), (("x-request-id", "job-7"),), (("x-request-id", "not valid"),):
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await channel.unary_unary(POOL)(b"", metadata=metadata)
            in_trailer = dict(failed.value.trailing_metadata())["x-request-id"]
            assert failed.value.details() == in_trailer
            assert in_trailer == "job-7" or metadata != (("x-request-id", "job-7"),)


def _status(message: str) -> status_pb2.Status:
    return status_pb2.Status(code=code_pb2.INVALID_ARGUMENT, message=message)


async def test_a_failed_request_keeps_its_status_and_details() -> None:
    status = status_pb2.Status(code=code_pb2.INVALID_ARGUMENT, message="wrong")
    status.details.add().Pack(error_details_pb2.BadRequest())

    async def fail(_method: str, _message: bytes, context: ServeContext) -> bytes:
        context.set_trailing_metadata([("request_id", "1"), (STATUS_DETAILS_KEY, status.SerializeToString())])
        return b""

    async with channel_to(fail) as channel:
        assert await failure(channel.unary_unary(POOL)(b"")) == (grpc.StatusCode.INVALID_ARGUMENT, status)


@pytest.mark.parametrize(
    ("serves", "reported"),
    [
        (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE),
        (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAVAILABLE),
        (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.DEADLINE_EXCEEDED),
    ],
)
async def test_a_failure_of_serve_has_a_status_without_its_traceback(
    serves: grpc.StatusCode, reported: grpc.StatusCode
) -> None:
    async with channel_to(failing(serves)) as channel:
        code, status = await failure(channel.unary_unary(POOL)(b""))
    assert code is reported
    assert status.code == reported.value[0]
    assert "Traceback" not in status.message


async def test_a_full_queue_of_serve_says_when_to_retry() -> None:
    async with channel_to(failing(grpc.StatusCode.RESOURCE_EXHAUSTED)) as channel:
        _, status = await failure(channel.unary_unary(POOL)(b""))
    retry = error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(retry)
    assert retry.retry_delay.seconds == 1


async def test_a_call_for_an_application_that_does_not_exist_is_not_to_be_retried() -> None:
    async with channel_to(failing(grpc.StatusCode.NOT_FOUND)) as channel:
        code, status = await failure(channel.unary_unary(POOL)(b"", metadata=(("application", "another"),)))
    assert code is grpc.StatusCode.NOT_FOUND
    assert "'another'" in status.message


async def test_a_caller_that_leaves_cancels_the_call_of_the_replica() -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def wait(_method: str, _message: bytes, _context: ServeContext) -> bytes:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
        # As Serve does, which turns a cancellation into a status.
        return b""

    async with channel_to(wait) as channel:
        call = channel.unary_unary(POOL)(b"")
        await started.wait()
        call.cancel()
        await cancelled.wait()


def item(number: int) -> bytes:
    return pb.PoolStreamRequest(correlation_id=number, request=pb.PoolRequest()).SerializeToString()


async def test_a_failure_of_serve_is_the_outcome_of_one_request_of_a_stream() -> None:
    async def fail_on_two(_method: str, message: bytes, context: ServeContext) -> bytes:
        correlation_id, _ = codec.decode_stream_request(message)
        if correlation_id == 2:
            context.set_code(grpc.StatusCode.INTERNAL)
            return b""
        return codec.encode_stream_response(correlation_id, status_pb2.Status(), b"")

    async with channel_to(fail_on_two) as channel:
        call = channel.stream_stream(STREAM)(iter(map(item, range(5))))
        outcomes = [pb.PoolStreamResponse.FromString(response) async for response in call]
    assert {one.correlation_id: one.status.code for one in outcomes} == {
        number: code_pb2.UNAVAILABLE if number == 2 else 0 for number in range(5)
    }


async def test_a_status_of_a_replica_ends_a_stream() -> None:
    status = status_pb2.Status(code=code_pb2.INVALID_ARGUMENT, message="no PoolStreamRequest")

    async def fail(_method: str, _message: bytes, context: ServeContext) -> bytes:
        context.set_trailing_metadata([(STATUS_DETAILS_KEY, status.SerializeToString())])
        return b""

    async def read_all(channel: Any) -> None:
        async for _ in channel.stream_stream(STREAM)(iter([b"\xff"])):
            pass

    async with channel_to(fail) as channel:
        assert await failure(read_all(channel)) == (grpc.StatusCode.INVALID_ARGUMENT, status)


async def test_a_stream_has_no_more_requests_in_flight_than_its_flow_control_allows() -> None:
    running, most, full, may_end = 0, 0, asyncio.Event(), asyncio.Event()

    async def wait(_method: str, message: bytes, _context: ServeContext) -> bytes:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == MAX_STREAM_REQUESTS:
            full.set()
        await may_end.wait()
        running -= 1
        return codec.encode_stream_response(codec.decode_stream_request(message)[0], status_pb2.Status(), b"")

    count = 3 * MAX_STREAM_REQUESTS
    async with channel_to(wait) as channel:
        call = channel.stream_stream(STREAM)(iter(map(item, range(count))))
        await full.wait()
        may_end.set()
        assert len([response async for response in call]) == count
    assert most == MAX_STREAM_REQUESTS


async def test_without_serve_the_methods_say_so() -> None:
    class PlainServer:
        def __init__(self, server: grpc.aio.Server) -> None:
            self.add_generic_rpc_handlers = server.add_generic_rpc_handlers

    server = grpc.aio.server()
    add_pool_service(None, PlainServer(server))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Any = channel.unary_unary(POOL)
        with pytest.raises(grpc.aio.AioRpcError, match="does not route"):
            await call(b"")
    await server.stop(None)
