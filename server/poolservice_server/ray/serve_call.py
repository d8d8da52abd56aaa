"""One call of a replica through Serve: its deadline on the way there, its status on the way back."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any, TypeAlias

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import code_pb2, error_details_pb2, status_pb2

from poolservice_server.core.call_ids import REQUEST_ID_KEY, with_request_id
from poolservice_server.grpc_adapter.abort import STATUS_DETAILS_KEY

#: The metadata key with which a replica gets the seconds until the caller's deadline.
SECONDS_LEFT_KEY = "poolservice-seconds-left"

# The metadata that the replica gets from the proxy only.
_PROXY_KEYS = (SECONDS_LEFT_KEY, REQUEST_ID_KEY)

# The metadata with which a caller chooses one of several applications.
_APPLICATION_KEY = "application"

# When callers should retry a call that Serve did not take, because its queue is full.
_RETRY_SECONDS = 1

Metadata: TypeAlias = Sequence[tuple[str, Any]]


class CallFailed(Exception):
    """The call ended with a status other than OK.

    Attributes:
        status: the status, with its details.
        is_serves: True if Serve failed and not the request: it may succeed the next time.
    """

    def __init__(self, status: status_pb2.Status, *, is_serves: bool = False) -> None:
        super().__init__(status.message)
        self.status = status
        self.is_serves = is_serves


class ServeContext:
    """The context of one request, in place of gRPC's: Serve reads the call's metadata and sets its status.

    Args:
        context: gRPC's context of the call or of the stream.
        request_id: the id of the call.
    """

    def __init__(self, context: "grpc.aio.ServicerContext[Any, Any]", request_id: str) -> None:
        self._metadata = [(key, value) for key, value in context.invocation_metadata() or () if key not in _PROXY_KEYS]
        self._metadata.append((REQUEST_ID_KEY, request_id))
        self._request_id = request_id
        self._peer = context.peer()
        self._code: grpc.StatusCode | None = None
        self._details = ""
        self._trailing_metadata: Metadata = ()
        seconds = context.time_remaining()
        if seconds is not None:
            self._metadata.append((SECONDS_LEFT_KEY, str(seconds)))

    def invocation_metadata(self) -> Metadata:
        """Return the metadata of the call, with the seconds until its deadline."""
        return self._metadata

    def peer(self) -> str:
        """Return the address of the caller."""
        return self._peer

    def peer_identities(self) -> None:
        """Return None: Serve's proxy has no TLS."""

    def peer_identity_key(self) -> None:
        """Return None: Serve's proxy has no TLS."""

    def auth_context(self) -> dict[str, Any]:
        """Return nothing: Serve's proxy has no TLS."""
        return {}

    def code(self) -> grpc.StatusCode | None:
        """Return the status code that was set."""
        return self._code

    def details(self) -> str:
        """Return the message that was set."""
        return self._details

    def trailing_metadata(self) -> Metadata:
        """Return the trailing metadata that was set."""
        return self._trailing_metadata

    def set_code(self, code: grpc.StatusCode) -> None:
        """Set the status code."""
        self._code = code

    def set_details(self, details: str) -> None:
        """Set the message of the status."""
        self._details = details

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        """Set the trailing metadata."""
        self._trailing_metadata = metadata

    def failure(self) -> CallFailed | None:
        """Return why the request failed; None if it succeeded."""
        for key, value in self._trailing_metadata:
            if key == STATUS_DETAILS_KEY:
                return CallFailed(status_pb2.Status.FromString(value))
        if self._code in (None, grpc.StatusCode.OK):
            return None
        return CallFailed(with_request_id(self._serves_status(), self._request_id), is_serves=True)

    def _serves_status(self) -> status_pb2.Status:
        """Return the status of a request that failed in Serve. Serve's own message may have a traceback."""
        if self._code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            retry = AnyMessage()
            retry.Pack(error_details_pb2.RetryInfo(retry_delay=timedelta(seconds=_RETRY_SECONDS)))
            return status_pb2.Status(
                code=code_pb2.RESOURCE_EXHAUSTED,
                message=f"Serve's queue for the replicas is full; retry in {_RETRY_SECONDS} s, or start more replicas",
                details=[retry],
            )
        if self._code is grpc.StatusCode.NOT_FOUND:
            for key, name in self._metadata:
                if key == _APPLICATION_KEY:
                    return status_pb2.Status(code=code_pb2.NOT_FOUND, message=f"there is no application {name!r}")
            return status_pb2.Status(
                code=code_pb2.UNAVAILABLE,
                message="Serve has no application for this call: it starts or stops, or there are several; then the "
                f"call names one in the metadata {_APPLICATION_KEY!r}",
            )
        if self._code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return status_pb2.Status(
                code=code_pb2.DEADLINE_EXCEEDED, message="the request took longer than Serve's request_timeout_s"
            )
        return status_pb2.Status(
            code=code_pb2.UNAVAILABLE,
            message="the replica that had the request ended, or cannot be reached; send the request again",
        )


#: Serve's handler of a method with one request. It ends with the status in its context.
ServeMethod: TypeAlias = Callable[[bytes, ServeContext], Awaitable[bytes]]


async def call_replica(
    method: ServeMethod, message: bytes, context: "grpc.aio.ServicerContext[Any, Any]", request_id: str
) -> bytes:
    """Return a replica's response to a message.

    Args:
        method: Serve's handler of the method.
        message: the encoded request.
        context: gRPC's context of the call or of the stream.
        request_id: the id of the call.

    Raises:
        CallFailed: the request, or Serve, failed.
        CancelledError: the caller has left.
    """
    serve_context = ServeContext(context, request_id)
    response = await method(message, serve_context)
    # Serve turns a cancellation into a status.
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
    failure = serve_context.failure()
    if failure is not None:
        raise failure
    return response
