"""Translating a google.rpc.Status to an exception of the SDK: one table, and the error details of the status."""

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeVar

from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from poolservice.errors import InvalidRequest, PoolError
from poolservice_client._response.parameter_names import invalid_request_error
from poolservice_client.errors import DeadlineExceeded, Overloaded, ServerError, Unauthenticated, Unavailable

# Errors end up in logs, so a longer message is cut.
_MAX_MESSAGE_CHARACTERS = 4000
_MAX_VIOLATIONS = 16
_REQUEST_ID = re.compile(r"[!-~]{1,128}")

_Detail = TypeVar("_Detail", bound=Message)


def error_of_status(status: status_pb2.Status) -> PoolError:
    """Return the exception for the status of a call, or of one request of a batch. The status must not be OK."""
    if len(status.message) > _MAX_MESSAGE_CHARACTERS or not status.message.isprintable():
        cleaned = status_pb2.Status()
        cleaned.CopyFrom(status)
        cleaned.message = printable(status.message)
        status = cleaned
    error = _ERRORS.get(status.code, _server_error)(status)
    for info in _details(status, error_details_pb2.RequestInfo):
        error.request_id = request_id(info.request_id)
    return error


def request_id(text: object) -> str | None:
    """Return the request id that a server sent; None if it is no short text of visible ASCII characters."""
    return text if isinstance(text, str) and _REQUEST_ID.fullmatch(text) else None


def printable(text: str) -> str:
    """Return a server's text as one line of printable characters: others are escaped, and a long text is cut."""
    if len(text) > _MAX_MESSAGE_CHARACTERS:
        text = f"{text[:_MAX_MESSAGE_CHARACTERS]}... ({len(text)} characters)"
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def retry_delay(status: status_pb2.Status) -> float | None:
    """Return the seconds after which the server asks for a retry; None if it does not ask for one."""
    for retry in _details(status, error_details_pb2.RetryInfo):
        try:
            seconds: float = retry.retry_delay.ToTimedelta().total_seconds()
        except (ValueError, OverflowError):
            # The delay is outside the range that protobuf allows. Details are optional, so the status is still valid.
            continue
        return max(seconds, 0.0)
    return None


def _invalid(status: status_pb2.Status) -> PoolError:
    violations = [
        violation
        for bad_request in _details(status, error_details_pb2.BadRequest)
        for violation in bad_request.field_violations
    ]
    for violation in violations:
        violation.field, violation.description = printable(violation.field), printable(violation.description)
    return invalid_request_error(violations[:_MAX_VIOLATIONS]) if violations else InvalidRequest(status.message)


def _exhausted(status: status_pb2.Status) -> PoolError:
    delay = retry_delay(status)
    # By the contract, a status without RetryInfo means a message over the server's limit, which a retry cannot help.
    return _invalid(status) if delay is None else Overloaded(status.message, retry_after=delay)


def _server_error(status: status_pb2.Status) -> PoolError:
    for info in _details(status, error_details_pb2.ErrorInfo):
        if error_id := info.metadata.get("error_id"):
            return ServerError(status.message, error_id=printable(error_id))
    name = code_pb2.Code.Name(status.code) if status.code in code_pb2.Code.values() else f"status {status.code}"
    return ServerError(status.message or f"the server sent {name} without a message")


#: The exception for each status code. Any other code is a fault of the server.
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


def _details(status: status_pb2.Status, detail_type: type[_Detail]) -> list[_Detail]:
    details = []
    for packed in status.details:
        if packed.Is(detail_type.DESCRIPTOR):
            try:
                details.append(detail_type.FromString(packed.value))
            except DecodeError:
                # Details are optional. A malformed one does not invalidate the status.
                continue
    return details
