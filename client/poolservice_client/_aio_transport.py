"""How bytes reach a server and come back, for asyncio."""

# ruff: noqa: ASYNC109 - the time-out travels with the call, as its gRPC deadline

import asyncio
import time
from typing import Protocol

import grpc

from poolservice_client._settings import Settings
from poolservice_client._transport import (
    HEALTH,
    MAX_CALLS_IN_FLIGHT,
    POOL,
    POOL_BATCH,
    SERVER_INFO,
    channel_options,
    check_size,
    closed_before,
    closed_within,
    error_of_rpc,
    late,
)
from poolservice_client.errors import PoolError


class AsyncTransport(Protocol):
    """The seam between an AsyncPoolClient and the network. See Transport."""

    async def call(self, method: str, request: bytes, timeout: float | None) -> bytes:
        """See Transport. Cancelling it cancels the call on the server too."""
        ...

    async def close(self) -> None:
        """See Transport."""
        ...


class AsyncGrpcTransport:
    """An AsyncTransport over one gRPC channel, for any number of tasks of one event loop.

    The channel is made with the first call, so that a client can be made before its event loop runs.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._turns = asyncio.Semaphore(MAX_CALLS_IN_FLIGHT)
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._channel: grpc.aio.Channel | None = None
        self._methods: dict[str, grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]] = {}

    async def call(self, method: str, request: bytes, timeout: float | None) -> bytes:
        """See AsyncTransport."""
        self._check(request)
        if self._loop is not asyncio.get_running_loop():
            self._open()
        left = await self._take_turn(timeout)
        try:
            return await self._methods[method](request, timeout=left)
        except grpc.aio.AioRpcError as error:
            if self._closed:
                raise closed_within() from None
            raise error_of_rpc(error, self._settings, timeout, request) from None
        except asyncio.CancelledError:
            # Closing the channel cancels its calls; whoever awaits one was not cancelled.
            task = asyncio.current_task()
            if self._closed and (task is None or not task.cancelling()):
                raise closed_within() from None
            raise
        except grpc.aio.UsageError:
            # gRPC's answer to a call that lost the race against close().
            if not self._closed:
                raise
            raise closed_before() from None
        finally:
            self._turns.release()

    async def close(self) -> None:
        """See AsyncTransport."""
        self._closed = True
        if self._channel is not None:
            await self._channel.close()

    async def _take_turn(self, timeout: float | None) -> float | None:
        """Wait until a call may start; what is left of its time-out then."""
        if not self._turns.locked():
            await self._turns.acquire()
            return timeout
        started = time.monotonic()
        try:
            async with asyncio.timeout(timeout):
                await self._turns.acquire()
        except TimeoutError:
            raise late(self._settings, timeout) from None
        return None if timeout is None else max(timeout - (time.monotonic() - started), 0.0)

    def _open(self) -> None:
        if self._channel is not None:
            raise PoolError("this client belongs to another event loop; make one for each loop")
        self._loop = asyncio.get_running_loop()
        self._channel = grpc.aio.insecure_channel(self._settings.address, options=channel_options(self._settings))
        self._methods = {
            method: self._channel.unary_unary(method, request_serializer=None, response_deserializer=None)
            for method in (POOL, POOL_BATCH, SERVER_INFO, HEALTH)
        }

    def _check(self, request: bytes) -> None:
        if self._closed:
            raise closed_before()
        check_size(request, self._settings)
