"""Translating gRPC errors of a call to the SDK's exceptions, and deciding which of them are retried."""

import re

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, status_pb2

from poolservice.errors import InvalidRequest, PoolError
from poolservice_client._response.status import error_of_status, printable, request_id, retry_delay
from poolservice_client._settings.proxy import PROXY_VARIABLE, ignored_variable, uses_proxy
from poolservice_client._settings.settings import Settings
from poolservice_client._settings.unix_sockets import is_unix, why_no_server
from poolservice_client._transport.retry import Failure
from poolservice_client.errors import DeadlineExceeded, Overloaded, ServerError, Unavailable

# The trailing metadata in which gRPC carries a google.rpc.Status, and that in which a server or a proxy names the call.
_STATUS_KEY, _REQUEST_ID_KEY = "grpc-status-details-bin", "x-request-id"
# gRPC's message, on either side, for a message over the size limit.
_TOO_LARGE = re.compile(r"(?P<what>Sent|Received) message larger than max \((?P<size>\d+) vs\. (?P<limit>\d+)\)")
# The last alternative is the error of a name with several machines, none of which takes calls.
_NOT_CONNECTED = re.compile(
    r"failed to connect|DNS resolution failed|errors resolving|connections to all backends failing", re.IGNORECASE
)
_NOT_SERVING = re.compile(r"backend unhealthy", re.IGNORECASE)
# The error of a server that accepts a connection and sends nothing in time. The second alternative is that with TLS.
_SILENT = re.compile(
    r"timed out before receiving SETTINGS frame|handshake read failed \(endpoint closing\)", re.IGNORECASE
)
# "tcp handshaker shutdown" is the error of a connection that took too long, without TLS.
_HANDSHAKE_FAILED = re.compile(r"handshake failed|(?<!tcp )handshaker|certificate|ssl", re.IGNORECASE)
# Something accepted the connection and then closed it, as a TLS server does to a client without TLS.
_CLOSED_BY_PEER = re.compile(r"socket closed|connection reset|broken pipe|end of tcp|stream removed", re.IGNORECASE)
_NOT_TLS = re.compile(r"wrong.version.number|packet.length|http.request", re.IGNORECASE)
_METADATA_TOO_LARGE = re.compile(r"metadata size exceeds", re.IGNORECASE)

# The statuses of a server that is stopping or that a proxy replaces by another one. A retry may succeed.
_TRANSIENT_CODES = (code_pb2.UNAVAILABLE, code_pb2.CANCELLED)
_UNREACHABLE_CODES = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)


def failure_of_rpc(
    error: grpc.Call | grpc.aio.AioRpcError, settings: Settings, timeout: float | None, request_bytes: int
) -> Failure:
    """Return the failure of a call, with the exception for the caller and whether a retry may succeed.

    Args:
        error: gRPC's error, with the status of the call.
        settings: the settings of the client.
        timeout: the timeout of the call, in seconds; None if it has none.
        request_bytes: the size of the request.
    """
    code: int = error.code().value[0]
    message = printable(error.details() or "")
    status = _status_in(error)
    if status is not None and status.code != code:
        status = None
    exception = _exception(code, message, status, settings, timeout, request_bytes)
    if exception.request_id is None:
        exception.request_id = _request_id_in(error)
    if code == code_pb2.RESOURCE_EXHAUSTED and status is not None:
        # Without RetryInfo, a message exceeded a limit of the server or of a proxy, and a retry cannot help.
        delay = retry_delay(status)
        if delay is not None:
            return Failure(exception, retryable=True, retry_after=delay)
    if code == code_pb2.UNAVAILABLE and status is None and _NOT_CONNECTED.search(message):
        # A server whose handshake failed counts as reached. Waiting for it would not make a certificate valid.
        sent = bool(_HANDSHAKE_FAILED.search(message))
        is_silent = not sent and bool(_SILENT.search(message))
        return Failure(exception, retryable=False, sent=sent, is_lost=True, is_silent=is_silent)
    return Failure(exception, retryable=code in _TRANSIENT_CODES, is_lost=code in _TRANSIENT_CODES)


def require_message(response: bytes | None, settings: Settings) -> bytes:
    """Return the response of a call that ended with the status OK.

    Raises:
        ServerError: the call ended without a message, for which gRPC returns None.
    """
    if response is None:
        raise ServerError(f"{settings.address} ended the call with the status OK, but without a complete message")
    return response


def is_unreachable(error: grpc.Call | grpc.aio.AioRpcError) -> bool:
    """Return True if the error means that no server responded."""
    return error.code() in _UNREACHABLE_CODES


def request_too_large(size: int, limit: int) -> InvalidRequest:
    """Return the error for a request over the client's limit."""
    return InvalidRequest(
        f"the request has {size} bytes, over this client's limit of {limit}; raise it with max_message_bytes=, "
        "and the server's with its --max-message-bytes, or send less at a time"
    )


def closed_error() -> PoolError:
    """Return the error for a call on a closed client."""
    return PoolError("this client is closed; make a new one")


def closed_during_call_error() -> PoolError:
    """Return the error for a call that was running when its client was closed."""
    return PoolError("the client was closed during this call")


def _exception(
    code: int,
    message: str,
    status: status_pb2.Status | None,
    settings: Settings,
    timeout: float | None,
    request_bytes: int,
) -> PoolError:
    address = settings.address
    if status is not None:
        return error_of_status(status)
    if too_large := _TOO_LARGE.search(message):
        return _too_large(too_large, request_bytes)
    if code == code_pb2.DEADLINE_EXCEEDED and timeout is not None:
        details = "" if message.casefold() in ("", "deadline exceeded") else f": {message}"
        return DeadlineExceeded(f"{address} gave no response within the timeout of {timeout:g} s{details}")
    if code == code_pb2.UNAVAILABLE:
        return _unavailable(message, settings)
    if code == code_pb2.RESOURCE_EXHAUSTED:
        if _METADATA_TOO_LARGE.search(message):
            return _metadata_too_large(message, settings)
        # poolservice always sends details, so a proxy sent this to limit the rate.
        return Overloaded(message)
    if code == code_pb2.UNIMPLEMENTED:
        if "ompression" in message:
            return ServerError(f"{address} takes no compressed messages; start it with --compression: {message}")
        return ServerError(f"{address} is no poolservice, or one of another version: {message}")
    return error_of_status(status_pb2.Status(code=code, message=message))


def _unavailable(message: str, settings: Settings) -> Unavailable:
    address, proxy = settings.address, settings.proxy
    via = f" through {proxy}" if proxy is not None else ""
    if not _NOT_CONNECTED.search(message):
        return Unavailable(f"{address} is unavailable{via}: {message}")
    if _CLOSED_BY_PEER.search(message):
        return Unavailable(f"{address} is unavailable{via}: {_reason_for_closing(settings)} ({message})")
    if "HTTP proxy" in message or "http connect" in message.lower():
        return Unavailable(f"{address} cannot be reached: {proxy} refused the connection ({message})")
    if _NOT_SERVING.search(message):
        return Unavailable(
            f"no server at {address}{via} is ready: the last one reports NOT_SERVING, because it is starting, "
            f"stopping or its device fails ({message})"
        )
    if _HANDSHAKE_FAILED.search(message):
        if _NOT_TLS.search(message):
            return Unavailable(
                f"the TLS handshake with {address}{via} failed: the server there does not use TLS; for a "
                f"server without TLS, leave out tls= and its environment variables ({message})"
            )
        return Unavailable(
            f"the TLS handshake with {address}{via} failed; does the server use TLS, does tls= name the authority of "
            f"its certificate, and does tls= hold a client certificate if the server requires one? ({message})"
        )
    if reasons := [why_no_server(one) for one in settings.addresses if is_unix(one)]:
        return Unavailable(
            f"no server answers at {address}: {printable('; '.join(reasons))}; is poolservice-server running with that "
            f"--address? ({message})"
        )
    hint = ""
    if proxy is None and any(map(uses_proxy, settings.addresses)) and (variable := ignored_variable()):
        hint = f" The client does not use the proxy in {variable}; proxy= or {PROXY_VARIABLE} sets one."
    return Unavailable(f"no server answers at {address}{via}; is poolservice-server running there? ({message}){hint}")


def _reason_for_closing(settings: Settings) -> str:
    if settings.tls is None:
        return "the server closes the connection; if it uses TLS, pass tls=, otherwise it may be stopping"
    if settings.tls.certificate is None:
        return (
            "the server closes the connection; if it requires a client certificate, pass it with "
            "tls=TLS(certificate=..., key=...), otherwise it may be stopping"
        )
    return "the server closes the connection; does it trust the authority of the client certificate in tls=?"


def _metadata_too_large(message: str, settings: Settings) -> PoolError:
    # The client's own metadata was checked before, so only interceptors can make a request's metadata too large.
    if settings.interceptors:
        return InvalidRequest(
            f"with the metadata that the interceptors add, this call is over the limit: {message}", field="metadata"
        )
    return ServerError(f"the metadata of the response from {settings.address} is over gRPC's limit: {message}")


def _too_large(match: re.Match[str], request_bytes: int) -> InvalidRequest:
    size, limit = int(match["size"]), int(match["limit"])
    if match["what"] == "Sent":
        return InvalidRequest(
            f"the response has {size} bytes, over the server's limit of {limit}; raise it with the server's "
            "--max-message-bytes, or ask for less at a time"
        )
    if size == request_bytes:
        return InvalidRequest(
            f"the request has {size} bytes, over the server's limit of {limit}; raise it with the server's "
            "--max-message-bytes, or send less at a time"
        )
    return InvalidRequest(
        f"the response has {size} bytes, over this client's limit of {limit}; raise it with max_message_bytes=, "
        "or ask for less at a time"
    )


def _status_in(error: grpc.Call | grpc.aio.AioRpcError) -> status_pb2.Status | None:
    for key, value in error.trailing_metadata() or ():
        if key == _STATUS_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                # A proxy or another kind of server wrote it. gRPC's own status still describes the error.
                return None
    return None


def _request_id_in(error: grpc.Call | grpc.aio.AioRpcError) -> str | None:
    for key, value in error.trailing_metadata() or ():
        if key == _REQUEST_ID_KEY:
            return request_id(value)
    return None
