"""PoolClient, the blocking client."""

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self, Unpack

from poolservice.errors import InvalidRequest
from poolservice_client._clients.base import BaseClient, with_own_methods
from poolservice_client._clients.blocking_image_methods import BlockingImages
from poolservice_client._clients.blocking_pool_method import BlockingPool
from poolservice_client._coalescing import limits
from poolservice_client._coalescing.blocking import Coalescer
from poolservice_client._coalescing.blocking_call import PendingCall
from poolservice_client._coalescing.limits import coalesced_bytes
from poolservice_client._map.blocking_map_method import BlockingMap
from poolservice_client._request.files import path_of, with_path
from poolservice_client._request.query import PoolQuery
from poolservice_client._response.reader import read_response
from poolservice_client._server_info import Health, ServerInfo, read_health, read_server_info
from poolservice_client._settings.settings import DEFAULT_MAX_MESSAGE_BYTES, DEFAULT_TIMEOUT, ConnectionOptions
from poolservice_client._transport.blocking import GrpcTransport, Transport
from poolservice_client._transport.methods import HEALTH, HEALTH_REQUEST, POOL, SERVER_INFO, SERVER_INFO_REQUEST


@with_own_methods
class PoolClient(BlockingPool, BlockingImages, BlockingMap, BaseClient):
    """A blocking client of a pooling service. Thread-safe: threads should share one client.

    The client connects with its first call. It can be pickled, for worker processes: the copy has the same settings,
    including the token, and connects anew. It reads the files of `tls` again, and its counters start at zero.

    Args:
        address: "host:port", or another address that gRPC knows: "dns:///host:port" for all machines that the name
            resolves to, "unix:/path" for a Unix socket. A list of addresses shares the calls among them. Default: the
            environment variable POOLSERVICE_ADDRESS, which separates several addresses by commas, else
            localhost:50051.
        timeout: seconds that a call without its own timeout may take; math.inf for no limit. Default: 30.
        max_message_bytes: the largest message to send or receive, in bytes; the server has its own limit. Default:
            64 MiB.
        coalesce: send small `pool` calls of several threads in one message: calls made while another one is running
            wait for at most 20 ms and share the next message. Two such messages may be in flight. Each call has its own
            result, error and timeout. A call that is made while no other one is running never waits. Calls with a
            backbone are coalesced once the client knows that it runs for at most 20 ms.
        transport: replaces gRPC; for tests.
        connections: the number of connections per address. Default: one per worker process of the server
            (--workers), which the client finds in the background from the second call on; one for a "dns:" address.
        retries: how calls with temporary failures are retried; None for no retries. Default: RetryPolicy().
        hedge_after: seconds without a response after which a call is sent a second time, over another connection if
            there is one. The first response counts. Hedges use the retry budget, so there are none with retries=None.
            Default: never.
        tls: encrypts the connection. `TLS(ca=...)` trusts the given authorities, True the public ones. Default:
            encrypted if one of the environment variables POOLSERVICE_CA, POOLSERVICE_CLIENT_CERTIFICATE and
            POOLSERVICE_CLIENT_KEY names a file.
        token: a bearer token to send with each call. It is sent only over TLS, through a Unix socket or to this
            machine. Default: the environment variable POOLSERVICE_TOKEN.
        compression: "gzip" compresses requests, for a server started with --compression. It rarely makes calls faster.
        metadata: pairs of key and value to send with each call.
        interceptors: gRPC client interceptors. They see messages as bytes.
        keepalive: seconds between pings on a connection with running calls, from 1 to 2,000,000. A server closes
            connections that ping more often than it allows. Default: no pings.
        wait_for_ready: seconds that a call waits for a server that cannot be reached, within its timeout. Default: 0
            for a server that has never responded, 30 for one that has; with retries=None, 0 for both.
        proxy: "http://host:port" of an HTTP proxy to connect through; False for none. Addresses of this machine are
            always reached directly, and a token is sent through a proxy only over TLS. Default: the environment
            variable POOLSERVICE_PROXY, else none; http_proxy, https_proxy and grpc_proxy have no effect.

    Raises:
        InvalidRequest: an argument is invalid.

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
        **options: Unpack[ConnectionOptions],
    ) -> None:
        super().__init__(address, timeout, max_message_bytes, options, coalesce=coalesce, transport=transport)

    def _open(self) -> None:
        super()._open()
        own: Transport | None = self._own_transport
        self._transport = GrpcTransport(self._settings, self._counters) if own is None else own
        # One for each kind of calls, in the order of limits.kind_of: they take the server differently long.
        self._coalescers = (
            tuple(
                Coalescer(self._transport, self._counters, self.address, of_kind)
                for of_kind in (limits.TENSORS, limits.IMAGES, limits.BACKBONES)
            )
            if self._coalesce
            else None
        )

    def server_info(self, *, timeout: float | None = None) -> ServerInfo:
        """Return the server's version, operators, dtypes, image formats, limits, devices and backbones.

        Args:
            timeout: seconds until the call must end. Default: the client's timeout.

        Raises:
            PoolError: see `pool`.
        """
        return read_server_info(
            self._transport.call(SERVER_INFO, SERVER_INFO_REQUEST, self._settings.call_timeout(timeout))
        )

    def health(self, *, timeout: float | None = None) -> Health:
        """Return the server's health, which is true as a condition only if the server accepts calls.

        Args:
            timeout: seconds until the call must end. Default: the client's timeout.

        Raises:
            PoolError: see `pool`; Unavailable if no server can be reached. The call is never retried.
        """
        return read_health(self._transport.call(HEALTH, HEALTH_REQUEST, self._settings.call_timeout(timeout)))

    def close(self) -> None:
        """End all running calls and close the connections. A second time has no effect."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, query: PoolQuery, x: Any, timeout: float | None, *, execution: bool = False) -> Any:
        try:
            payload = query.payload_of(x)
            template = query.template_for(payload)
            seconds = self._settings.call_timeout(timeout)
            if self._coalescers is not None and (nbytes := coalesced_bytes(query, template, payload)):
                call = PendingCall(query, template, payload.data, nbytes, seconds)
                self._coalescers[limits.kind_of(query, template)].send(call)
                return call.result(execution=execution)
            response = self._transport.call(POOL, template.request(payload.data), seconds)
        except InvalidRequest as error:
            raise with_path(error, path_of(x)) from error.__cause__
        template.response_bytes = len(response)
        return read_response(response, query, execution=execution)
