"""How bytes reach a server and come back, for asyncio."""

# ruff: noqa: ASYNC109 - the time-out travels with the call, as its gRPC deadline

import asyncio
from typing import Protocol

import grpc

from poolservice_client._settings import Settings
from poolservice_client._transport import (
    HEALTH,
    POOL,
    SERVER_INFO,
    channel_options,
    check_size,
    closed_before,
    closed_within,
    error_of_rpc,
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
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._channel: grpc.aio.Channel | None = None
        self._methods: dict[str, grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]] = {}

    async def call(self, method: str, request: bytes, timeout: float | None) -> bytes:
        """See AsyncTransport."""
        self._check(request)
        if self._loop is not asyncio.get_running_loop():
            self._open()
        try:
            return await self._methods[method](request, timeout=timeout)
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

    async def close(self) -> None:
        """See AsyncTransport."""
        self._closed = True
        if self._channel is not None:
            await self._channel.close()

    def _open(self) -> None:
        if self._channel is not None:
            raise PoolError("this client belongs to another event loop; make one for each loop")
        self._loop = asyncio.get_running_loop()
        self._channel = grpc.aio.insecure_channel(self._settings.address, options=channel_options(self._settings))
        self._methods = {
            method: self._channel.unary_unary(method, request_serializer=None, response_deserializer=None)
            for method in (POOL, SERVER_INFO, HEALTH)
        }

    def _check(self, request: bytes) -> None:
        if self._closed:
            raise closed_before()
        check_size(request, self._settings)
