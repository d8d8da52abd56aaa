"""How bytes reach a server and come back. Everything of gRPC that is not a status is here and in _aio_transport."""

import threading
import time
from typing import Protocol, cast

import grpc

from poolservice_client._cancellation import Cancellation, Cancelled
from poolservice_client._settings import Settings
from poolservice_client._status import Circumstances, error_of_call, too_large_to_send
from poolservice_client.errors import DeadlineExceeded, PoolError

POOL = "/poolservice.v1.PoolService/Pool"
POOL_BATCH = "/poolservice.v1.PoolService/PoolBatch"
SERVER_INFO = "/poolservice.v1.PoolService/GetServerInfo"
HEALTH = "/grpc.health.v1.Health/Check"

#: Calls of one client that are under way at one time; the rest wait for their turn, within their deadlines.
#: A server's max_concurrent_streams, often 100, counts calls that have ended here and not yet there, and it refuses
#: those beyond (RST_STREAM, REFUSED_STREAM), which gRPC hands to the caller. No server is faster for more.
MAX_CALLS_IN_FLIGHT = 80

# A server that is not there is told within seconds; gRPC would try for 20, and between tries wait for up to 120.
_CONNECT_MILLISECONDS = 3000
_FIRST_RETRY_MILLISECONDS = 200


class Transport(Protocol):
    """The seam between a PoolClient and the network: whole messages out, whole messages in."""

    def call(
        self, method: str, request: bytes, timeout: float | None, cancellation: Cancellation | None = None
    ) -> bytes:
        """Send a message to a method and wait for its answer.

        Args:
            method: the path, "/package.Service/Method".
            request: the encoded message.
            timeout: seconds until the answer must be there; None waits for ever.
            cancellation: what may end the call from another thread.

        Raises:
            PoolError: no answer; which of its kinds says why: Cancelled, where it was cancelled.
        """
        ...

    def close(self) -> None:
        """End what is under way and give the connection back. A second time does nothing."""
        ...


class GrpcTransport:
    """A Transport over one gRPC channel, for any number of threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._channel = grpc.insecure_channel(settings.address, options=channel_options(settings))
        self._methods: dict[str, grpc.UnaryUnaryMultiCallable[bytes, bytes]] = {
            method: self._channel.unary_unary(method, request_serializer=None, response_deserializer=None)
            for method in (POOL, POOL_BATCH, SERVER_INFO, HEALTH)
        }
        self._turns = threading.BoundedSemaphore(MAX_CALLS_IN_FLIGHT)
        self._closed = False

    def call(
        self, method: str, request: bytes, timeout: float | None, cancellation: Cancellation | None = None
    ) -> bytes:
        """See Transport."""
        self._check(request)
        left = self._take_turn(timeout)
        try:
            answer = self._send(method, request, left, cancellation)
        except grpc.RpcError as error:
            if self._closed:
                raise closed_within() from None
            # What a blocking call raises is also the call, with its status.
            raise error_of_rpc(cast(grpc.Call, error), self._settings, timeout, request) from None
        except ValueError:
            # gRPC's answer to a call that lost the race against close().
            if not self._closed:
                raise
            raise closed_before() from None
        finally:
            self._turns.release()
        return answer

    def _send(self, method: str, request: bytes, timeout: float | None, cancellation: Cancellation | None) -> bytes:
        if cancellation is None:
            return self._methods[method](request, timeout=timeout)
        cancellation.check()
        call = self._methods[method].future(request, timeout=timeout)
        with cancellation.ending(call.cancel):
            try:
                return call.result()
            except grpc.FutureCancelledError:
                raise Cancelled from None

    def close(self) -> None:
        """See Transport."""
        self._closed = True
        self._channel.close()

    def _take_turn(self, timeout: float | None) -> float | None:
        """Wait until a call may start; what is left of its time-out then."""
        if self._turns.acquire(blocking=False):
            return timeout
        started = time.monotonic()
        if not self._turns.acquire(timeout=timeout):
            raise late(self._settings, timeout)
        return None if timeout is None else max(timeout - (time.monotonic() - started), 0.0)

    def _check(self, request: bytes) -> None:
        if self._closed:
            raise closed_before()
        check_size(request, self._settings)


def channel_options(settings: Settings) -> list[tuple[str, int]]:
    """The options of a channel, blocking or not."""
    return [
        ("grpc.max_send_message_length", settings.max_message_bytes),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.initial_reconnect_backoff_ms", _FIRST_RETRY_MILLISECONDS),
        ("grpc.min_reconnect_backoff_ms", _CONNECT_MILLISECONDS),
        ("grpc.max_reconnect_backoff_ms", _CONNECT_MILLISECONDS),
    ]


def check_size(request: bytes, settings: Settings) -> None:
    """Refuse a request over the client's own limit before gRPC does, and in better words."""
    if len(request) > settings.max_message_bytes:
        raise too_large_to_send(len(request), settings.max_message_bytes)


def error_of_rpc(
    error: grpc.Call | grpc.aio.AioRpcError, settings: Settings, timeout: float | None, request: bytes
) -> PoolError:
    """The SDK's error for gRPC's."""
    metadata = error.trailing_metadata()
    return error_of_call(
        error.code().value[0],
        error.details() or "",
        [(key, value) for key, value in metadata or ()],
        Circumstances(settings.address, timeout, len(request)),
    )


def late(settings: Settings, timeout: float | None) -> DeadlineExceeded:
    """The error of a call whose turn did not come in time."""
    return DeadlineExceeded(
        f"{MAX_CALLS_IN_FLIGHT} calls of this client waited for {settings.address}, and this one's turn did not come "
        f"within the timeout of {timeout:g} s"
    )


def closed_before() -> PoolError:
    """The error of a call on a closed client."""
    return PoolError("this client is closed; make a new one")


def closed_within() -> PoolError:
    """The error of a call that was under way when its client was closed."""
    return PoolError("the client was closed while this call was under way")
