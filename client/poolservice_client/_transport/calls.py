"""What blocking calls and awaited ones have in common: limits, the connections to begin with, errors."""

import time
from collections.abc import Callable

import grpc
import grpc.aio

from poolservice_client._response.status import Circumstances, failure_of_call, too_large_to_send
from poolservice_client._settings.addresses import is_balanced
from poolservice_client._settings.settings import Settings
from poolservice_client._stats import Counters
from poolservice_client._transport.connections import Connection, ConnectionPool, Place
from poolservice_client._transport.retry import Failure
from poolservice_client.errors import DeadlineExceeded, PoolError

#: Calls of one client that are under way at one time; the rest wait for their turn, within their deadlines.
#: A server's max_concurrent_streams, often 100, counts calls that have ended here and not yet there, and it refuses
#: those beyond (RST_STREAM, REFUSED_STREAM), which gRPC hands to the caller. No server is faster for more.
MAX_CALLS_IN_FLIGHT = 80

#: How long a connection has to say which worker it reaches.
ASK_SECONDS = 3.0


def first_connections(settings: Settings, counters: Counters, open_one: Callable[[str], Connection]) -> ConnectionPool:
    """The connections that a client begins with; none is made before its first call."""
    several = settings.connections or 1
    connections = [open_one(address) for _ in range(several) for address in settings.addresses]
    # Where gRPC shares calls out among machines, an answer tells nothing of the next one's worker.
    seeks = settings.connections is None and not any(map(is_balanced, settings.addresses))
    return ConnectionPool(connections, counters, seeks_workers=seeks)


def left_of(deadline: float | None) -> float | None:
    """Seconds until a deadline in time.monotonic's; None for never."""
    return None if deadline is None else max(deadline - time.monotonic(), 0.0)


def check_size(request: bytes, settings: Settings) -> None:
    """Refuse a request over the client's own limit before gRPC does, and in better words."""
    if len(request) > settings.max_message_bytes:
        raise too_large_to_send(len(request), settings.max_message_bytes)


def failure_of_rpc(
    error: grpc.Call | grpc.aio.AioRpcError, settings: Settings, timeout: float | None, request_bytes: int
) -> Failure:
    """What gRPC's error means for the call."""
    metadata = error.trailing_metadata()
    return failure_of_call(
        error.code().value[0],
        error.details() or "",
        [(key, value) for key, value in metadata or ()],
        Circumstances(settings.address, timeout, request_bytes),
    )


def place_of_refusal(error: grpc.Call | grpc.aio.AioRpcError) -> Place | None:
    """The place of a server that says no to GetServerInfo: it is there, and the only one; None where none is."""
    if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED):
        return None
    return Place(0, 1)


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
