"""AsyncPoolClient, the asyncio client."""

# ruff: noqa: ASYNC109 - the timeout is sent with the call, as its gRPC deadline

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self, Unpack

from poolservice.errors import InvalidRequest
from poolservice_client._clients.aio_image_methods import AsyncImages
from poolservice_client._clients.aio_pool_method import AsyncPool
from poolservice_client._clients.base import BaseClient, documented_as, with_own_methods
from poolservice_client._clients.blocking import PoolClient
from poolservice_client._coalescing import limits
from poolservice_client._coalescing.aio import AsyncCoalescer
from poolservice_client._coalescing.aio_message import PendingCall
from poolservice_client._coalescing.limits import coalesced_bytes
from poolservice_client._map.aio_map_method import AsyncMap
from poolservice_client._request.files import path_of, with_path
from poolservice_client._request.payload import is_slow
from poolservice_client._request.query import PoolQuery
from poolservice_client._request.reader_threads import reader_threads
from poolservice_client._response.reader import read_response
from poolservice_client._server_info import Health, ServerInfo, read_health, read_server_info
from poolservice_client._settings.settings import DEFAULT_MAX_MESSAGE_BYTES, DEFAULT_TIMEOUT, ConnectionOptions
from poolservice_client._transport.aio import AsyncGrpcTransport, AsyncTransport
from poolservice_client._transport.methods import HEALTH, HEALTH_REQUEST, POOL, SERVER_INFO, SERVER_INFO_REQUEST


@with_own_methods
class AsyncPoolClient(AsyncPool, AsyncImages, AsyncMap, BaseClient):
    """An asyncio client of a pooling service, for any number of tasks of one event loop.

    It has the methods of PoolClient, to be awaited. It may be created before the event loop runs, and connects with
    its first call. Cancelling a task that awaits a call cancels the call on the server, too. Like a PoolClient, it can
    be pickled, including its token.

    Args:
        address: the server's "host:port", or several; see PoolClient. Default: the environment variable
            POOLSERVICE_ADDRESS, else localhost:50051.
        timeout: seconds that a call without its own timeout may take; math.inf for no limit. Default: 30.
        max_message_bytes: the largest message to send or receive, in bytes; the server has its own limit. Default:
            64 MiB.
        coalesce: send small `pool` calls of several tasks in one message; see PoolClient.
        transport: replaces gRPC; for tests.
        options: connections, retries, hedge_after, tls, token, compression, metadata, interceptors, keepalive,
            wait_for_ready and proxy; see PoolClient. Interceptors are those of grpc.aio.

    Raises:
        InvalidRequest: an argument is invalid.

    Example:
        >>> async with AsyncPoolClient("localhost:50051") as client:
        ...     y = await client.pool(x, MaxPool2d(2))
    """

    def __init__(
        self,
        address: str | Sequence[str] | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        coalesce: bool = True,
        transport: AsyncTransport | None = None,
        **options: Unpack[ConnectionOptions],
    ) -> None:
        super().__init__(address, timeout, max_message_bytes, options, coalesce=coalesce, transport=transport)

    def _open(self) -> None:
        super()._open()
        own: AsyncTransport | None = self._own_transport
        self._transport = AsyncGrpcTransport(self._settings, self._counters) if own is None else own
        # One for each kind of calls, in the order of limits.kind_of: they take the server differently long.
        self._coalescers = (
            tuple(
                AsyncCoalescer(self._transport, self._counters, self.address, of_kind)
                for of_kind in (limits.TENSORS, limits.IMAGES, limits.BACKBONES)
            )
            if self._coalesce
            else None
        )

    @documented_as(PoolClient.server_info)
    async def server_info(self, *, timeout: float | None = None) -> ServerInfo:
        """Return the server's version, operators, dtypes, image formats, limits, devices and backbones."""
        return read_server_info(
            await self._transport.call(SERVER_INFO, SERVER_INFO_REQUEST, self._settings.call_timeout(timeout))
        )

    @documented_as(PoolClient.health)
    async def health(self, *, timeout: float | None = None) -> Health:
        """Return the server's health, which is true as a condition only if the server accepts calls."""
        return read_health(await self._transport.call(HEALTH, HEALTH_REQUEST, self._settings.call_timeout(timeout)))

    @documented_as(PoolClient.close)
    async def close(self) -> None:
        """End all running calls and close the connections. A second time has no effect."""
        await self._transport.close()
        for coalescer in self._coalescers or ():
            await coalescer.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _call(self, query: PoolQuery, x: Any, timeout: float | None, *, execution: bool = False) -> Any:
        try:
            # Reading a file or encoding an image would block the event loop, so a thread does it.
            payload = await reader_threads.run(query.payload_of, x) if is_slow(x) else query.payload_of(x)
            template = query.template_for(payload)
            seconds = self._settings.call_timeout(timeout)
            if self._coalescers is not None and (nbytes := coalesced_bytes(query, template, payload)):
                call = PendingCall(query, template, payload.data, nbytes, seconds)
                await self._coalescers[limits.kind_of(query, template)].send(call)
                return call.result(execution=execution)
            response = await self._transport.call(POOL, template.request(payload.data), seconds)
        except InvalidRequest as error:
            raise with_path(error, path_of(x)) from error.__cause__
        template.response_bytes = len(response)
        if query.output == "image":
            return await reader_threads.run(read_response, response, query, execution=execution)
        return read_response(response, query, execution=execution)
