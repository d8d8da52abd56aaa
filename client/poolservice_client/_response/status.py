"""From gRPC statuses to the SDK's errors: one table, and the google.rpc details that come with a status."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from poolservice.errors import InvalidRequest, PoolError
from poolservice_client._response.parameters import refusal
from poolservice_client._transport.retry import Failure
from poolservice_client.errors import DeadlineExceeded, Overloaded, ServerError, Unauthenticated, Unavailable

_Detail = TypeVar("_Detail", bound=Message)

# Where gRPC carries a google.rpc.Status.
_DETAILS_KEY = "grpc-status-details-bin"
# gRPC's own words, on either side, for a message over the size limit.
_TOO_LARGE = re.compile(r"(?P<what>Sent|Received) message larger than max \((?P<size>\d+) vs\. (?P<limit>\d+)\)")
_NOBODY = re.compile(r"failed to connect|DNS resolution failed|errors resolving", re.IGNORECASE)
_HANDSHAKE = re.compile(r"handshake failed|handshaker|certificate|ssl", re.IGNORECASE)

# What a server says that is ending, or that another takes the place of; what was asked can be asked again.
_PASSING = (code_pb2.UNAVAILABLE, code_pb2.CANCELLED)


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What the caller knows of a call that failed."""

    address: str
    timeout: float | None
    request_bytes: int


def failure_of_call(
    code: int, message: str, metadata: Iterable[tuple[str, str | bytes]] | None, call: Circumstances
) -> Failure:
    """How a call ended, as the client's retries see it.

    Args:
        code: the gRPC status code's number.
        message: the status's message.
        metadata: the trailing metadata, where google.rpc details are.
        call: what the caller knows.
    """
    status = _carried(metadata)
    if status is None or status.code != code:
        status = None
    error = _error_of_call(code, message, status, call)
    if code == code_pb2.RESOURCE_EXHAUSTED and status is not None:
        # Without RetryInfo it is a message over a limit, or a proxy's word that may mean just that.
        for retry in _details(status, error_details_pb2.RetryInfo):
            return Failure(error, again=True, wait=retry.retry_delay.ToTimedelta().total_seconds())
    if code == code_pb2.UNAVAILABLE and status is None and _NOBODY.search(message):
        # Strangers do not become trusted by waiting for them.
        return Failure(error, again=False, sent=bool(_HANDSHAKE.search(message)), is_lost=True)
    return Failure(error, again=code in _PASSING, is_lost=code in _PASSING)


def _error_of_call(code: int, message: str, status: status_pb2.Status | None, call: Circumstances) -> PoolError:
    if status is not None:
        return error_of_status(status)
    if too_large := _TOO_LARGE.search(message):
        return _too_large(too_large, call)
    if code == code_pb2.DEADLINE_EXCEEDED and call.timeout is not None:
        more = "" if message.casefold() in ("", "deadline exceeded") else f": {message}"
        return DeadlineExceeded(f"{call.address} gave no answer within the timeout of {call.timeout:g} s{more}")
    if code == code_pb2.UNAVAILABLE:
        if not _NOBODY.search(message):
            return Unavailable(f"{call.address} is unavailable: {message}")
        if _HANDSHAKE.search(message):
            return Unavailable(
                f"the TLS handshake with {call.address} failed; does the server speak TLS, and does tls= name the "
                f"authority of its certificate, and this client's own where the server wants one? ({message})"
            )
        return Unavailable(f"no server answers at {call.address}; is poolservice-server running there? ({message})")
    if code == code_pb2.RESOURCE_EXHAUSTED:
        # Without details it is no poolservice that speaks, but a proxy in between that limits the rate.
        return Overloaded(message)
    if code == code_pb2.UNIMPLEMENTED:
        if "ompression" in message:
            return ServerError(f"{call.address} takes no compressed messages; start it with --compression: {message}")
        return ServerError(f"{call.address} is no poolservice, or one of another version: {message}")
    return error_of_status(status_pb2.Status(code=code, message=message))


def error_of_status(status: status_pb2.Status) -> PoolError:
    """The error for a google.rpc.Status, of a call or of one item of a batch; not for OK."""
    make = _ERRORS.get(status.code, _server_error)
    return make(status)


def _invalid(status: status_pb2.Status) -> PoolError:
    violations = [
        violation for bad in _details(status, error_details_pb2.BadRequest) for violation in bad.field_violations
    ]
    if not violations:
        return InvalidRequest(status.message)
    return refusal(violations)


def _exhausted(status: status_pb2.Status) -> PoolError:
    for retry in _details(status, error_details_pb2.RetryInfo):
        return Overloaded(status.message, retry_after=retry.retry_delay.ToTimedelta().total_seconds())
    # By the contract, what is no full queue is a message over the server's limit, which stays over it.
    return _invalid(status)


def _server_error(status: status_pb2.Status) -> PoolError:
    for info in _details(status, error_details_pb2.ErrorInfo):
        if error_id := info.metadata.get("error_id"):
            return ServerError(status.message, error_id=error_id)
    name = code_pb2.Code.Name(status.code) if status.code in code_pb2.Code.values() else f"status {status.code}"
    return ServerError(status.message or f"the server answered {name} without a word")


#: What each gRPC status raises; what is not here is the server's own fault.
_ERRORS: Mapping[int, Callable[[status_pb2.Status], PoolError]] = MappingProxyType(
    {
        code_pb2.INVALID_ARGUMENT: _invalid,
        code_pb2.OUT_OF_RANGE: _invalid,
        code_pb2.FAILED_PRECONDITION: _invalid,
        code_pb2.RESOURCE_EXHAUSTED: _exhausted,
        code_pb2.DEADLINE_EXCEEDED: lambda status: DeadlineExceeded(status.message),
        code_pb2.UNAUTHENTICATED: lambda status: Unauthenticated(status.message),
        code_pb2.PERMISSION_DENIED: lambda status: Unauthenticated(status.message),
        code_pb2.UNAVAILABLE: lambda status: Unavailable(status.message),
    }
)


def too_large_to_send(size: int, limit: int) -> InvalidRequest:
    """The error for a request over the client's own limit."""
    return InvalidRequest(
        f"the request has {size} bytes, over this client's limit of {limit}; raise it with max_message_bytes=, "
        "and the server's with its --max-message-bytes, or send less at a time"
    )


def _too_large(match: re.Match[str], call: Circumstances) -> InvalidRequest:
    size, limit = int(match["size"]), int(match["limit"])
    if match["what"] == "Sent":
        return InvalidRequest(
            f"the answer has {size} bytes, over the server's limit of {limit}; raise it with the server's "
            "--max-message-bytes, or ask for less at a time"
        )
    if size == call.request_bytes:
        return InvalidRequest(
            f"the request has {size} bytes, over the server's limit of {limit}; raise it with the server's "
            "--max-message-bytes, or send less at a time"
        )
    return InvalidRequest(
        f"the answer has {size} bytes, over this client's limit of {limit}; raise it with max_message_bytes=, "
        "or ask for less at a time"
    )


def _carried(metadata: Iterable[tuple[str, str | bytes]] | None) -> status_pb2.Status | None:
    for key, value in metadata or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                # A proxy's or another server's; the status itself still says what happened.
                return None
    return None


def _details(status: status_pb2.Status, kind: type[_Detail]) -> list[_Detail]:
    found = []
    for packed in status.details:
        if packed.Is(kind.DESCRIPTOR):
            try:
                found.append(kind.FromString(packed.value))
            except DecodeError:
                # Details are an extra: one that cannot be read takes nothing from the status.
                continue
    return found
