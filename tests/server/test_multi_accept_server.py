"""The multi-accept server: cancelled calls, refused calls, and more calls than pending accepts."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from poolservice_server.grpc_adapter import private_names

pytestmark = pytest.mark.skipif(
    bool(private_names.missing("multi_accept_server")),
    reason="the installed grpcio does not support the multi-accept server",
)

TIMEOUT_SECONDS = 60


class Payload:
    """An object that only a handler's frame holds, as it holds the message."""


class Service:
    """A method that waits for the test, and methods that respond, refuse or fail at once."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.proceed = asyncio.Event()
        self.ended = asyncio.Event()
        self.outcome = ""
        self.payloads: list[weakref.ref[Payload]] = []
        self.released = asyncio.Semaphore(0)

    async def wait(self, message: bytes, _context: Any) -> bytes:
        self.started.set()
        try:
            await self.proceed.wait()
            self.outcome = "completed"
        except asyncio.CancelledError:
            self.outcome = "cancelled"
            raise
        finally:
            self.ended.set()
        return message

    async def echo(self, message: bytes, _context: Any) -> bytes:
        return message

    async def refuse(self, _message: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        payload = Payload()
        self.payloads.append(weakref.ref(payload, lambda _: self.released.release()))
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no")
        raise AssertionError

    async def fail(self, _message: bytes, _context: Any) -> bytes:
        raise ArithmeticError("this handler fails")


@asynccontextmanager
async def serving(service: Service) -> AsyncIterator[Callable[[str], Any]]:
    """Serve the methods of `service`; yield a function that returns a method for a client to call."""
    from poolservice_server.grpc_adapter import multi_accept_server

    server = multi_accept_server.create_server([])
    server.add_registered_method_handlers(
        "test.Service",
        {
            name: grpc.unary_unary_rpc_method_handler(getattr(service, name.lower()))
            for name in ("Wait", "Echo", "Refuse", "Fail")
        },
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield lambda name: channel.unary_unary(f"/test.Service/{name}")
    finally:
        await server.stop(None)


async def test_a_cancelled_call_cancels_its_handler() -> None:
    service = Service()
    async with serving(service) as method:
        call = method("Wait")(b"")
        await service.started.wait()
        call.cancel()
        await asyncio.wait_for(service.ended.wait(), TIMEOUT_SECONDS)
    assert service.outcome == "cancelled"


async def test_more_calls_than_pending_accepts_each_get_their_own_response() -> None:
    from poolservice_server.grpc_adapter import multi_accept_server

    service = Service()
    async with serving(service) as method:
        calls = [method("Wait")(b"%d" % number) for number in range(5 * multi_accept_server.ACCEPTS_PER_METHOD)]
        await service.started.wait()
        service.proceed.set()
        assert await asyncio.gather(*calls) == [b"%d" % number for number in range(len(calls))]


async def test_a_refused_call_releases_its_memory_without_the_garbage_collector() -> None:
    service = Service()
    gc.disable()
    try:
        async with serving(service) as method:
            calls = [method("Refuse")(b"x") for _ in range(20)]
            for call in calls:
                assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
            # The status reaches the caller before the handler's frame is released.
            async with asyncio.timeout(TIMEOUT_SECONDS):
                for _ in calls:
                    await service.released.acquire()
    finally:
        gc.enable()
    assert [payload() for payload in service.payloads] == [None] * len(calls)


async def test_a_call_that_is_cancelled_before_it_is_watched_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    service = Service()
    async with serving(service) as method:
        for _ in range(20):
            for event in (service.started, service.proceed, service.ended):
                event.clear()
            call = method("Wait")(b"")
            await service.started.wait()
            call.cancel()
            # This call follows the cancellation on the same connection, so the server has read the cancellation.
            assert await method("Echo")(b"alive") == b"alive"
            service.proceed.set()
            await service.ended.wait()
        assert await method("Echo")(b"alive") == b"alive"
    assert caplog.records == []


async def test_only_an_unexpected_exception_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(Service()) as method:
        assert await status_code(method("Refuse")) is grpc.StatusCode.INVALID_ARGUMENT
        assert await status_code(method("Unknown")) is grpc.StatusCode.UNIMPLEMENTED
        assert caplog.records == []
        assert await status_code(method("Fail")) is grpc.StatusCode.UNKNOWN
        assert ["ArithmeticError" in record.getMessage() for record in caplog.records] == [True]


async def status_code(method: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await method(b"")
    return caught.value.code()
