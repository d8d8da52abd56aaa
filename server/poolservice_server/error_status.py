"""The errors of a request and the gRPC status that reports each of them to the caller.

InvalidRequest    INVALID_ARGUMENT     BadRequest names the field and says what would be right
ImageTooLarge     INVALID_ARGUMENT     an InvalidRequest, too
MessageTooLarge   RESOURCE_EXHAUSTED   the message names the limit and how to raise it
QueueFull         RESOURCE_EXHAUSTED   RetryInfo says when to retry
UnreadResponses   RESOURCE_EXHAUSTED   RetryInfo says when to retry
CallLimitReached  RESOURCE_EXHAUSTED   RetryInfo says when to retry
QuotaExceeded     RESOURCE_EXHAUSTED   the message names the quota; RetryInfo says when to retry
DeadlinePassed    DEADLINE_EXCEEDED
Draining          UNAVAILABLE
WorkStopped       CANCELLED            nobody waits for the response any more
NoDevice          UNAVAILABLE
Unauthenticated   UNAUTHENTICATED
DecoderEnded      UNAVAILABLE          the process that decoded the image was ended from outside, or the server stops
BackboneFailed    INTERNAL             the message is the reason, such as a network that gives NaN
any other         INTERNAL             an id that is also in the log; never a traceback or a path

Each status has the call's request id in a RequestInfo.
"""

import uuid
from asyncio import CancelledError
from collections.abc import Mapping
from datetime import timedelta
from types import MappingProxyType

import structlog
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from poolservice.errors import InvalidRequest
from poolservice_server.backbone_stage import BackboneFailed
from poolservice_server.backend.device import NoDevice
from poolservice_server.batcher import DeadlinePassed, Draining, QueueFull, QuotaExceeded
from poolservice_server.core.call_ids import with_request_id
from poolservice_server.images import DecoderEnded, ImageTooLarge
from poolservice_server.settings import LARGEST_MESSAGE_BYTES
from poolservice_server.stop import WorkStopped

_log = structlog.get_logger(__name__)


class MessageTooLarge(Exception):
    """A request message or its response exceeds the server's limit."""

    def __init__(self, what: str, nbytes: int, limit: int, *, remedy: str) -> None:
        advice = (
            f"{remedy}; no setting allows it, because --max-message-bytes is at most {LARGEST_MESSAGE_BYTES}"
            if nbytes > LARGEST_MESSAGE_BYTES
            else f"{remedy}, or start the server with a larger --max-message-bytes (POOLSERVICE_MAX_MESSAGE_BYTES, at "
            f"most {LARGEST_MESSAGE_BYTES}) and the client with a larger max_message_bytes"
        )
        super().__init__(f"{what} of {nbytes} bytes is over this server's limit of {limit}; {advice}")


class UnreadResponses(Exception):
    """A caller has so many unread responses that the server computes no further one for it."""

    retry_after = 1.0

    def __init__(self, unread: int, limit: int) -> None:
        super().__init__(
            f"the responses that this caller has not read take {unread} bytes, and the server's limit is {limit} for "
            "each caller; read them first, or start the server with a larger --max-unread-bytes "
            "(POOLSERVICE_MAX_UNREAD_BYTES)"
        )


class CallLimitReached(Exception):
    """The server has as many calls in progress as it may have."""

    retry_after = 1.0

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"the server has {limit} calls in progress, its limit; retry in {self.retry_after:g} s, or start the "
            "server with a larger --max-calls (POOLSERVICE_MAX_CALLS)"
        )


class Unauthenticated(Exception):
    """The caller sent no token, or one that this server does not know."""


_CODES: Mapping[type[Exception], int] = MappingProxyType(
    {
        InvalidRequest: code_pb2.INVALID_ARGUMENT,
        MessageTooLarge: code_pb2.RESOURCE_EXHAUSTED,
        QueueFull: code_pb2.RESOURCE_EXHAUSTED,
        CallLimitReached: code_pb2.RESOURCE_EXHAUSTED,
        UnreadResponses: code_pb2.RESOURCE_EXHAUSTED,
        QuotaExceeded: code_pb2.RESOURCE_EXHAUSTED,
        DeadlinePassed: code_pb2.DEADLINE_EXCEEDED,
        Draining: code_pb2.UNAVAILABLE,
        WorkStopped: code_pb2.CANCELLED,
        NoDevice: code_pb2.UNAVAILABLE,
        Unauthenticated: code_pb2.UNAUTHENTICATED,
        ImageTooLarge: code_pb2.INVALID_ARGUMENT,
        DecoderEnded: code_pb2.UNAVAILABLE,
        BackboneFailed: code_pb2.INTERNAL,
    }
)


def code_name(error: BaseException | None) -> str:
    """Return the name of the gRPC code with which an error, or None for success, ends a request."""
    if error is None:
        return "OK"
    if isinstance(error, CancelledError):
        return "CANCELLED"
    code = _CODES.get(type(error), code_pb2.INTERNAL) if isinstance(error, Exception) else code_pb2.INTERNAL
    name: str = code_pb2.Code.Name(code)
    return name


def to_status(error: Exception, request_id: str = "") -> status_pb2.Status:
    """Return the status that reports `error` to the caller. An internal error is logged here, once.

    Args:
        error: the error.
        request_id: the id of the call; empty if it has none.
    """
    status = _to_status(error, request_id)
    return with_request_id(status, request_id) if request_id else status


def _to_status(error: Exception, request_id: str) -> status_pb2.Status:
    code = _CODES.get(type(error))
    if code is None:
        error_id = uuid.uuid4().hex[:12]
        _log.error("request failed", error_id=error_id, request_id=request_id, exc_info=error)
        return status_pb2.Status(
            code=code_pb2.INTERNAL,
            message=f"the server failed to process the request; its log has the cause under error id {error_id}",
            details=_pack(
                error_details_pb2.ErrorInfo(reason="INTERNAL", domain="poolservice", metadata={"error_id": error_id})
            ),
        )
    return status_pb2.Status(code=code, message=str(error), details=_pack(*_details(error)))


def _details(error: Exception) -> list[Message]:
    if isinstance(error, InvalidRequest) and error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.reason)
        return [error_details_pb2.BadRequest(field_violations=[violation])]
    if isinstance(error, QueueFull | QuotaExceeded | UnreadResponses | CallLimitReached):
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromTimedelta(timedelta(seconds=error.retry_after))
        return [retry]
    return []


def _pack(*messages: Message) -> list[Any]:
    packed = []
    for message in messages:
        detail = Any()
        detail.Pack(message)
        packed.append(detail)
    return packed
