"""The limits of a client's calls: how many run at the same time, how large they are and how long they take."""

import time

from poolservice_client._settings.settings import Settings
from poolservice_client._transport.failures import request_too_large
from poolservice_client.errors import DeadlineExceeded

#: The calls that one client runs at the same time. Further calls wait for a slot, within their deadlines.
#: A server's max_concurrent_streams, often 100, also counts calls that have ended in the client but not yet in the
#: server. The server refuses calls beyond it (RST_STREAM, REFUSED_STREAM), and gRPC reports that to the caller. More
#: concurrent calls make no server faster.
MAX_CONCURRENT_CALLS = 80


def remaining(deadline: float | None) -> float | None:
    """Return the seconds until a deadline, which is in seconds of time.monotonic; None if there is none."""
    return None if deadline is None else max(deadline - time.monotonic(), 0.0)


def check_size(request: bytes, settings: Settings) -> None:
    """Raise InvalidRequest for a request over the client's limit, with a better message than gRPC's."""
    if len(request) > settings.max_message_bytes:
        raise request_too_large(len(request), settings.max_message_bytes)


def no_slot_error(settings: Settings, timeout: float | None) -> DeadlineExceeded:
    """Return the error for a call that found no free slot within its timeout."""
    return DeadlineExceeded(
        f"{MAX_CONCURRENT_CALLS} calls of this client to {settings.address} were running, and this call found no free "
        f"slot within its timeout of {timeout:g} s"
    )
