"""The server with several accepts: calls whose callers leave, sooner or later."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from poolservice_server.grpc_adapter import multi_accept


class Memory:
    """What a handler's frame holds, its message for one."""


class Service:
    """A method that answers when it is told to, and others that do at once."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.go_on = asyncio.Event()
        self.ended = asyncio.Event()
        self.outcome = ""
        self.kept: list[weakref.ref[Memory]] = []
        self.given_back = asyncio.Semaphore(0)

    async def wait(self, message: bytes, _context: Any) -> bytes:
        self.started.set()
        try:
            await self.go_on.wait()
            self.outcome = "answered"
        except asyncio.CancelledError:
            self.outcome = "cancelled"
            raise
        finally:
            self.ended.set()
        return message

    async def echo(self, message: bytes, _context: Any) -> bytes:
        return message

    async def refuse(self, _message: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        memory = Memory()
        self.kept.append(weakref.ref(memory, lambda _: self.given_back.release()))
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no")
        raise AssertionError

    async def stumble(self, _message: bytes, _context: Any) -> bytes:
        raise ArithmeticError("stumbled")


@asynccontextmanager
async def serving(service: Service) -> AsyncIterator[Callable[[str], Any]]:
    """The service's methods, as a caller has them."""
    assert multi_accept.supported()
    server = multi_accept.server([])
    server.add_registered_method_handlers(
        "test.Service",
        {
            name: grpc.unary_unary_rpc_method_handler(getattr(service, name.lower()))
            for name in ("Wait", "Echo", "Refuse", "Stumble")
        },
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield lambda name: channel.unary_unary(f"/test.Service/{name}")
    finally:
        await server.stop(None)


async def test_a_caller_who_leaves_a_long_call_ends_it() -> None:
    service = Service()
    async with serving(service) as method:
        call = method("Wait")(b"")
        await service.started.wait()
        call.cancel()
        await asyncio.wait_for(service.ended.wait(), 30)
    assert service.outcome == "cancelled"


async def test_calls_beyond_the_accepts_are_answered_each_with_its_own_answer() -> None:
    service = Service()
    async with serving(service) as method:
        calls = [method("Wait")(b"%d" % number) for number in range(5 * multi_accept.ACCEPTS_PER_METHOD)]
        await service.started.wait()
        service.go_on.set()
        assert await asyncio.gather(*calls) == [b"%d" % number for number in range(len(calls))]


async def test_a_refused_call_gives_its_memory_back_without_the_collector() -> None:
    service = Service()
    gc.disable()
    try:
        async with serving(service) as method:
            calls = [method("Refuse")(b"x") for _ in range(20)]
            for call in calls:
                assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
            # The caller is told before the handler's end.
            async with asyncio.timeout(30):
                for _ in calls:
                    await service.given_back.acquire()
    finally:
        gc.enable()
    assert [memory() for memory in service.kept] == [None] * len(calls)


async def test_callers_who_leave_before_anybody_listens_are_no_error(caplog: pytest.LogCaptureFixture) -> None:
    service = Service()
    async with serving(service) as method:
        for _ in range(20):
            for event in (service.started, service.go_on, service.ended):
                event.clear()
            call = method("Wait")(b"")
            await service.started.wait()
            call.cancel()
            # It comes behind the other's end on the same connection.
            assert await method("Echo")(b"still here") == b"still here"
            service.go_on.set()
            await service.ended.wait()
        assert await method("Echo")(b"still here") == b"still here"
    assert caplog.records == []


async def test_a_refusal_is_no_error_and_an_exception_ends_one_call(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(Service()) as method:
        assert await failure(method("Refuse")) is grpc.StatusCode.INVALID_ARGUMENT
        assert await failure(method("Nothing")) is grpc.StatusCode.UNIMPLEMENTED
        assert caplog.records == []
        assert await failure(method("Stumble")) is grpc.StatusCode.UNKNOWN
        assert ["stumble" in record.getMessage().lower() for record in caplog.records] == [True]


async def failure(method: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await method(b"")
    return caught.value.code()
