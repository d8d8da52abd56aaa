"""Fixtures: a gRPC server that holds messages until a test releases them, and a client with two messages in flight."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest

from poolservice_client import AsyncPoolClient, GlobalMaxPool2d, PoolClient
from poolservice_client._coalescing import limits

POOL = "/poolservice.v1.PoolService/Pool"
POOL_BATCH = "/poolservice.v1.PoolService/PoolBatch"
MAX_WAIT_SECONDS = 60
#: The calls that fill a message in these tests.
FULL = 4


class Message:
    """A message that the server has received.

    Attributes:
        request: the encoded request.
        released: set when the server may respond.
        ended: set when the call has ended on the server, also by its cancellation.
    """

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.released = threading.Event()
        self.ended = threading.Event()
        self.error: tuple[grpc.StatusCode, str] | None = None

    def release(self, error: tuple[grpc.StatusCode, str] | None = None) -> None:
        """Let the server respond, with an error if one is given."""
        self.error = error
        self.released.set()


class HoldingServer:
    """A gRPC server that responds with the maximum of each channel, to each message once the test releases it.

    Attributes:
        address: HOST:PORT.
        messages: the messages that it has received.
    """

    def __init__(self, respond: Callable[[str, bytes], bytes]) -> None:
        self.messages: list[Message] = []
        self._respond = respond
        self._received = threading.Condition()
        self._holds = True
        self._threads = ThreadPoolExecutor(64)
        self._server = grpc.server(self._threads)
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            method.rpartition("/")[2]: grpc.unary_unary_rpc_method_handler(self._handler(method))
            for method in (POOL, POOL_BATCH)
        }
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("poolservice.v1.PoolService", handlers),)
        )
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def _handler(self, method: str) -> Callable[[bytes, grpc.ServicerContext], bytes]:
        def handle(request: bytes, context: grpc.ServicerContext) -> bytes:
            message = Message(request)

            def end() -> None:
                message.ended.set()
                message.released.set()

            context.add_callback(end)
            with self._received:
                self.messages.append(message)
                if not self._holds:
                    message.released.set()
                self._received.notify_all()
            message.released.wait()
            if message.error is not None:
                context.abort(*message.error)
            return self._respond(method, request)

        return handle

    async def received(self, count: int) -> list[Message]:
        """Wait until the server has received so many messages, and return them."""

        def wait() -> list[Message]:
            with self._received:
                assert self._received.wait_for(lambda: len(self.messages) >= count, MAX_WAIT_SECONDS)
                return list(self.messages)

        return await asyncio.to_thread(wait)

    def release_all(self) -> None:
        """Respond to all messages, also to those that arrive later."""
        with self._received:
            self._holds = False
            for message in self.messages:
                message.released.set()

    def stop(self) -> None:
        """Stop the server."""
        self.release_all()
        self._server.stop(None).wait()
        self._threads.shutdown()


class Caller:
    """A client of either class, and calls of it that run as tasks or on threads.

    Attributes:
        client: the PoolClient or AsyncPoolClient.
    """

    def __init__(self, client: Any, watch_waiting: Callable[[Any], Callable[[int], None]]) -> None:
        self.client = client
        self._until_waiting = watch_waiting(client)
        self._threads = ThreadPoolExecutor(64)

    def call(self, number: int, **options: Any) -> "asyncio.Future[bool]":
        """Make a call with the given number. The result is True if that of the call is right."""
        x = np.full((2, 4, 4), number, np.float32)
        if isinstance(self.client, AsyncPoolClient):
            return asyncio.ensure_future(self._call_aio(self.client, x, options))
        return asyncio.get_running_loop().run_in_executor(self._threads, self._call_blocking, x, options)

    async def until_waiting(self, count: int) -> None:
        """Wait until so many calls wait for a message."""
        await asyncio.to_thread(self._until_waiting, count)

    async def close(self) -> None:
        """Close the client."""
        if isinstance(self.client, AsyncPoolClient):
            await self.client.close()
        else:
            await asyncio.to_thread(self.client.close)

    async def _call_aio(self, client: AsyncPoolClient, x: Any, options: dict[str, Any]) -> bool:
        return _is_right(await client.pool(x, GlobalMaxPool2d(), **options), x)

    def _call_blocking(self, x: Any, options: dict[str, Any]) -> bool:
        return _is_right(self.client.pool(x, GlobalMaxPool2d(), **options), x)


def _is_right(y: Any, x: Any) -> bool:
    return y.shape == (2, 1, 1) and bool((y == x[0, 0, 0]).all())


@pytest.fixture
def server(respond: Callable[[str, bytes], bytes]) -> Iterator[HoldingServer]:
    server = HoldingServer(respond)
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def small_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four calls fill a message, and calls wait until the test lets a message end or fills one."""
    monkeypatch.setattr(limits, "MAX_WAIT_SECONDS", 60.0)
    monkeypatch.setattr(limits, "OVERLAP_SECONDS", 60.0)
    monkeypatch.setattr(limits, "TENSORS", limits.MessageLimits(limits.TENSORS.nbytes, FULL))


@pytest.fixture(params=[PoolClient, AsyncPoolClient])
def new_caller(
    request: pytest.FixtureRequest, watch_waiting: Callable[[Any], Callable[[int], None]]
) -> Callable[..., Any]:
    """Creates a client, once of each class, with the given arguments."""

    @contextlib.asynccontextmanager
    async def new(*arguments: Any, **options: Any) -> AsyncIterator[Caller]:
        caller = Caller(request.param(*arguments, **options), watch_waiting)
        try:
            yield caller
        finally:
            await caller.close()

    return new
