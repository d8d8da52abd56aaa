"""The blocking client."""

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack, overload

from poolservice.errors import InvalidRequest
from poolservice.specs import PoolSpec
from poolservice_client._clients.blocking_pool import BlockingPooling
from poolservice_client._coalescing.blocking import Coalescer, PendingCall
from poolservice_client._coalescing.message import small
from poolservice_client._map.blocking_map import BlockingMap
from poolservice_client._request.files import naming, path_of
from poolservice_client._request.payload import Poolable, payload
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
from poolservice_client._transport.blocking import HEALTH, POOL, SERVER_INFO, GrpcTransport, Transport

if TYPE_CHECKING:
    import PIL.Image


class PoolClient(BlockingPooling, BlockingMap):
    """A connection to a pooling service, for any number of threads.

    Args:
        address: "host:port", or what else gRPC takes: "dns:///host:port" for all machines that the name stands for,
            "unix:/path". Or several, which share the calls. Default: the environment's POOLSERVICE_ADDRESS (with
            commas between several), else localhost:50051. Nothing is connected before the first call.
        timeout: seconds that a call may take unless it says otherwise; math.inf for ever.
        max_message_bytes: the largest message to send or take. A server has a limit of its own.
        coalesce: whether small `pool` calls that other threads make while one is under way travel together, in one
            message. No call waits for company, and each has its own answer, error and time-out.
        transport: what carries the messages instead of gRPC; for tests.
        connections: connections to each address. Default: enough to reach each worker of a server that has several
            (--workers), which are sought in the background from the second call on; one for a "dns:" address.
        retries: how calls are tried again that may succeed a little later; None for never.
        hedge_after: seconds without an answer after which a call is sent a second time, over another connection
            where there is one; the first answer counts. Within the budget of the retries. Default: never.
        tls: encrypts: TLS(ca=...) says whom to trust, True takes the web's authorities. Default: where the
            environment's POOLSERVICE_CA, POOLSERVICE_CLIENT_CERTIFICATE or POOLSERVICE_CLIENT_KEY name files.
        token: sent with each call as a bearer token, over TLS, a Unix socket or within this machine only. Default:
            the environment's POOLSERVICE_TOKEN.
        compression: "gzip" compresses what is sent, for a server with --compression. Seldom worth its time.
        metadata: pairs of key and value that each call carries.
        interceptors: gRPC's own client interceptors; messages are bytes.
        keepalive: seconds between pings of a connection with calls under way, at least 1; a server ends connections
            that ping more often than it allows. Default: none.
        wait_for_ready: seconds that a call waits for a server that is not there, within its time-out. Default: one
            that never answered is told at once, one that was there before is waited for up to 30 s.

    Raises:
        InvalidRequest: an argument is not what it may be.

    Example:
        >>> with PoolClient("localhost:50051") as client:
        ...     y = client.pool(x, MaxPool2d(2))
    """

    def __init__(
        self,
        address: str | Sequence[str] | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        coalesce: bool = True,
        transport: Transport | None = None,
        **connecting: Unpack[Connecting],
    ) -> None:
        self._settings = Settings.of(address, timeout, max_message_bytes, **connecting)
        self._counters = Counters()
        self._transport = GrpcTransport(self._settings, self._counters) if transport is None else transport
        # One for tensors, one for pictures, which take the server longer.
        self._coalescers = (
            tuple(Coalescer(self._transport, self._counters, self.address) for _ in ("tensors", "pictures"))
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
    def pool_image(self, x: Poolable, specs: PoolSpec, **options: Unpack[ImageOptions]) -> "PIL.Image.Image": ...
    @overload
    def pool_image(
        self, x: Poolable, specs: Sequence[PoolSpec], **options: Unpack[ImageOptions]
    ) -> "list[PIL.Image.Image]": ...
    def pool_image(
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
        return self._call(query, x, timeout)

    def server_info(self, *, timeout: float | None = None) -> ServerInfo:
        """What the server is and can do: version, operators, types, picture formats, limits, devices.

        Raises:
            PoolError: as in `pool`.
        """
        return read_info(self._transport.call(SERVER_INFO, INFO_REQUEST, self._settings.deadline(timeout)))

    def health(self, *, timeout: float | None = None) -> Health:
        """Whether the server takes calls; true as a condition where it does.

        Raises:
            PoolError: as in `pool`; Unavailable where there is no server to say it.
        """
        return read_health(self._transport.call(HEALTH, HEALTH_REQUEST, self._settings.deadline(timeout)))

    def close(self) -> None:
        """End what is under way and give the connection back. A second time does nothing."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, query: PoolQuery, x: Any, timeout: float | None, *, execution: bool = False) -> Any:
        try:
            prepared = payload(x)
            kind = query.template_for(prepared)
            seconds = self._settings.deadline(timeout)
            if self._coalescers is not None and (nbytes := small(kind, prepared)):
                call = PendingCall(kind, prepared.data, nbytes, seconds)
                self._coalescers[kind.is_image].ask(call)
                return call.result(execution=execution)
            answer = self._transport.call(POOL, kind.request(prepared.data), seconds)
        except InvalidRequest as error:
            raise naming(error, path_of(x)) from error.__cause__
        kind.answer_bytes = len(answer)
        return read_response(answer, query, execution=execution)
