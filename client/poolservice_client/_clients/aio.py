"""The client for asyncio."""

# ruff: noqa: ASYNC109 - the time-out travels with the call, as its gRPC deadline

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack, overload

from poolservice.errors import InvalidRequest
from poolservice.specs import PoolSpec
from poolservice_client._clients.aio_pool import AsyncPooling
from poolservice_client._coalescing.aio import AsyncCoalescer, PendingCall
from poolservice_client._coalescing.message import small
from poolservice_client._map.aio_map import AsyncMap
from poolservice_client._request.files import naming, path_of
from poolservice_client._request.payload import Poolable, is_slow, payload
from poolservice_client._request.query import ColorMode, ImageOptions, PoolQuery
from poolservice_client._response.reader import read_response
from poolservice_client._response.server_info import (
    HEALTH_REQUEST,
    INFO_REQUEST,
    Health,
    ServerInfo,
    read_health,
    read_info,
)
from poolservice_client._settings.settings import DEFAULT_MAX_MESSAGE_BYTES, DEFAULT_TIMEOUT, Connecting, Settings
from poolservice_client._stats import ClientStats, Counters
from poolservice_client._transport.aio import AsyncGrpcTransport, AsyncTransport
from poolservice_client._transport.blocking import HEALTH, POOL, SERVER_INFO

if TYPE_CHECKING:
    import PIL.Image


class AsyncPoolClient(AsyncPooling, AsyncMap):
    """A connection to a pooling service, for any number of tasks of one event loop.

    It can be made before the loop runs. Cancelling a task that awaits a call cancels the call on the server too.

    Args:
        address: "host:port", or what else gRPC takes: "dns:///host:port" for all machines that the name stands for,
            "unix:/path". Or several, which share the calls. Default: the environment's POOLSERVICE_ADDRESS (with
            commas between several), else localhost:50051. Nothing is connected before the first call.
        timeout: seconds that a call may take unless it says otherwise; math.inf for ever.
        max_message_bytes: the largest message to send or take. A server has a limit of its own.
        coalesce: whether small `pool` calls that other tasks make while one is under way travel together, in one
            message. No call waits for company, and each has its own answer, error and time-out.
        transport: what carries the messages instead of gRPC; for tests.
        connecting: how the servers are reached, in the words of PoolClient; interceptors are those of grpc.aio.

    Raises:
        InvalidRequest: an argument is not what it may be.

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
        **connecting: Unpack[Connecting],
    ) -> None:
        self._settings = Settings.of(address, timeout, max_message_bytes, **connecting)
        self._counters = Counters()
        self._transport = AsyncGrpcTransport(self._settings, self._counters) if transport is None else transport
        # One for tensors, one for pictures, which take the server longer.
        self._coalescers = (
            tuple(AsyncCoalescer(self._transport, self._counters, self.address) for _ in ("tensors", "pictures"))
            if coalesce
            else None
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address!r})"

    @property
    def address(self) -> str:
        """Where the server is."""
        return self._settings.address

    def stats(self) -> ClientStats:
        """What this client has done so far: calls, retries, connections, company."""
        return self._counters.stats()

    @overload
    async def pool_image(self, x: Poolable, specs: PoolSpec, **options: Unpack[ImageOptions]) -> "PIL.Image.Image": ...
    @overload
    async def pool_image(
        self, x: Poolable, specs: Sequence[PoolSpec], **options: Unpack[ImageOptions]
    ) -> "list[PIL.Image.Image]": ...
    async def pool_image(
        self,
        x: Any,
        specs: PoolSpec | Sequence[PoolSpec],
        *,
        color_mode: ColorMode | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Pool a picture, or a tensor that is one, and get a picture back.

        Args:
            x: as in `pool`. A tensor must be (C, H, W) with 1, 3 or 4 channels: uint8, or floats in [0, 1].
            specs: a 2-D spec without `return_indices`, or a list of them.
            color_mode: the channels to read a picture in, "RGB" (the default), "GRAY" or "RGBA".
            timeout: seconds until the answer must be there. Default: the client's.

        Returns:
            A PIL image of mode L, RGB or RGBA for one spec, a list of them for several.

        Raises:
            PoolError, OSError: as in `pool`.
        """
        query = PoolQuery.of(specs, output="image", color_mode=color_mode)
        return await self._call(query, x, timeout)

    async def server_info(self, *, timeout: float | None = None) -> ServerInfo:
        """What the server is and can do: version, operators, types, picture formats, limits, devices.

        Raises:
            PoolError: as in `pool`.
        """
        return read_info(await self._transport.call(SERVER_INFO, INFO_REQUEST, self._settings.deadline(timeout)))

    async def health(self, *, timeout: float | None = None) -> Health:
        """Whether the server takes calls; true as a condition where it does.

        Raises:
            PoolError: as in `pool`; Unavailable where there is no server to say it.
        """
        return read_health(await self._transport.call(HEALTH, HEALTH_REQUEST, self._settings.deadline(timeout)))

    async def close(self) -> None:
        """End what is under way and give the connection back. A second time does nothing."""
        await self._transport.close()
        for line in self._coalescers or ():
            await line.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _call(self, query: PoolQuery, x: Any, timeout: float | None, *, execution: bool = False) -> Any:
        try:
            # A file is read and a picture encoded on a thread: the loop has others to serve.
            prepared = await asyncio.to_thread(payload, x) if is_slow(x) else payload(x)
            kind = query.template_for(prepared)
            seconds = self._settings.deadline(timeout)
            if self._coalescers is not None and (nbytes := small(kind, prepared)):
                call = PendingCall(kind, prepared.data, nbytes, seconds)
                await self._coalescers[kind.is_image].ask(call)
                return call.result(execution=execution)
            answer = await self._transport.call(POOL, kind.request(prepared.data), seconds)
        except InvalidRequest as error:
            raise naming(error, path_of(x)) from error.__cause__
        kind.answer_bytes = len(answer)
        if query.output == "image":
            return await asyncio.to_thread(read_response, answer, query, execution=execution)
        return read_response(answer, query, execution=execution)
