"""gRPC's health service: whether the process is alive and ready, by name, in one response or as it changes.

`health_statuses` describes the names. Checks need no token, because load balancers and kubelets have none. Nobody must
be able to use them up, so a check is refused only to a connection that has many of them in progress.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from poolservice_server.backbones.backbone import Backbones
from poolservice_server.error_status import Unauthenticated
from poolservice_server.grpc_adapter.servicer import SERVICE_NAME
from poolservice_server.health_statuses import health_statuses, unknown_name
from poolservice_server.readiness import Readiness

HEALTH_SERVICE_NAME = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

_Context = grpc.aio.ServicerContext[Any, Any]

# A request for a status is a few bytes in the packet that starts the call.
_RECEIVE_SECONDS = 5.0

# Clients and load balancers have one call per connection in progress, or one per name.
_CALLS_PER_CONNECTION = 64

# The longest time for which a stop waits until the watchers know of it.
_LAST_CHANGE_SECONDS = 0.2

_SERVING: int = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: int = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN: int = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
_RESPONSES: dict[int, bytes] = {
    status: health_pb2.HealthCheckResponse(status=status).SerializeToString()
    for status in (_SERVING, _NOT_SERVING, _UNKNOWN)
}


# Handles the message of one call, and returns the response if there is one.
_Method = Callable[[bytes, _Context], Awaitable[bytes | None]]


class HealthService:
    """The methods Check, Watch and List. Create and use it in the event loop.

    A call of Watch costs memory for as long as its caller likes, so their number is limited. Whatever a watcher does,
    at most one response waits for it: changes that it has not read are one change for it.

    Args:
        readiness: the readiness of the process and of its backbones.
        backbones: the backbones, with those that the process started without.
        check_token: checks the token of a call, and raises Unauthenticated. List names the backbones, as GetServerInfo
            does, so it needs a token if that does.
        max_watches: largest number of calls of Watch in progress.
    """

    def __init__(
        self,
        readiness: Readiness,
        backbones: Backbones,
        check_token: Callable[[_Context], object],
        *,
        max_watches: int,
    ) -> None:
        self._readiness = readiness
        readiness.on_change = self._wake_watchers
        self._statuses = health_statuses(SERVICE_NAME, readiness, backbones)
        self._check_token = check_token
        self._max_watches = max_watches
        self._watchers: set[_Watcher] = set()
        self._calls: Counter[str] = Counter()
        self._written = asyncio.Event()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Add the methods to `server`, which must not have started yet."""
        # As in `servicer`: to gRPC, a method with one request is one with a stream, of which it reads the first.
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Check": grpc.stream_unary_rpc_method_handler(self._handle(self._check)),
            "Watch": grpc.stream_stream_rpc_method_handler(self._handle(self._watch)),
        }
        # Old releases of grpcio-health-checking do not have it.
        if hasattr(health_pb2, "HealthListResponse"):
            handlers["List"] = grpc.stream_unary_rpc_method_handler(self._handle(self._list))
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(HEALTH_SERVICE_NAME, handlers),))
        server.add_registered_method_handlers(HEALTH_SERVICE_NAME, handlers)

    async def drain(self) -> None:
        """Report NOT_SERVING, and wait a moment until the watchers have been sent it."""
        self._readiness.drain()
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_CHANGE_SECONDS):
                while any(self._status(one.service) != one.sent for one in self._watchers):
                    self._written.clear()
                    await self._written.wait()

    def _handle(self, method: _Method) -> Callable[[object, _Context], Awaitable[Any]]:
        async def handle(_source: object, context: _Context) -> Any:
            connection = context.peer()
            self._calls[connection] += 1
            try:
                if self._calls[connection] > _CALLS_PER_CONNECTION:
                    raise _Refused(
                        grpc.StatusCode.RESOURCE_EXHAUSTED,
                        f"at most {_CALLS_PER_CONNECTION} health checks may be in progress on one connection",
                    )
                return await method(await _message(context), context)
            except _Refused as error:
                # Not the error itself: its traceback refers to this frame, and that cycle would keep the message.
                code, reason = error.code, str(error)
            except grpc.aio.BaseError:
                # The caller has left: gRPC can neither receive nor send.
                raise asyncio.CancelledError from None
            finally:
                self._calls[connection] -= 1
                if not self._calls[connection]:
                    del self._calls[connection]
            return await context.abort(code, reason)

        return handle

    async def _check(self, message: bytes, _context: _Context) -> bytes:
        status = self._status(_service(message))
        if status == _UNKNOWN:
            raise _Refused(grpc.StatusCode.NOT_FOUND, unknown_name(SERVICE_NAME))
        return _RESPONSES[status]

    async def _watch(self, message: bytes, context: _Context) -> None:
        service = _service(message)
        if len(self._watchers) >= self._max_watches:
            raise _Refused(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"at most {self._max_watches} calls of Watch may be in progress; use Check, or start the server with a "
                "larger --max-connections (POOLSERVICE_MAX_CONNECTIONS)",
            )
        # Otherwise grpc.aio sends the headers with the first response and, if that fails, with the next one again.
        await context.send_initial_metadata(())
        # An unknown name can be long, and it stays unknown.
        watcher = _Watcher(service if service in self._statuses else None)
        self._watchers.add(watcher)
        try:
            while True:
                watcher.wake.clear()
                status = self._status(watcher.service)
                if status != watcher.sent:
                    await context.write(_RESPONSES[status])
                    watcher.sent = status
                    self._written.set()
                await watcher.wake.wait()
        finally:
            self._watchers.remove(watcher)
            self._written.set()

    async def _list(self, _message: bytes, context: _Context) -> bytes:
        try:
            self._check_token(context)
        except Unauthenticated as error:
            raise _Refused(grpc.StatusCode.UNAUTHENTICATED, str(error)) from None
        statuses = {name: health_pb2.HealthCheckResponse(status=self._status(name)) for name in self._statuses}
        response: bytes = health_pb2.HealthListResponse(statuses=statuses).SerializeToString()
        return response

    def _status(self, service: str | None) -> int:
        is_serving = None if service is None else self._statuses.get(service)
        if is_serving is None:
            return _UNKNOWN
        return _SERVING if is_serving() else _NOT_SERVING

    def _wake_watchers(self) -> None:
        for watcher in self._watchers:
            watcher.wake.set()


class _Watcher:
    """A call of Watch: what it watches, what it was sent last, and an event that wakes it after a change."""

    __slots__ = ("sent", "service", "wake")

    def __init__(self, service: str | None) -> None:
        self.service = service
        self.sent: int | None = None
        self.wake = asyncio.Event()


class _Refused(Exception):
    """The call ends with this code and message."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


async def _message(context: _Context) -> bytes:
    """Return the message of a call."""
    try:
        async with asyncio.timeout(_RECEIVE_SECONDS):
            message = await context.read()
    except TimeoutError:
        raise _Refused(
            grpc.StatusCode.DEADLINE_EXCEEDED, f"no complete request arrived within {_RECEIVE_SECONDS:g} s"
        ) from None
    if message is grpc.aio.EOF:
        raise _Refused(grpc.StatusCode.INVALID_ARGUMENT, "the call ended without a message")
    received: bytes = message
    return received


def _service(message: bytes) -> str:
    try:
        service: str = health_pb2.HealthCheckRequest.FromString(message).service
    except DecodeError:
        raise _Refused(grpc.StatusCode.INVALID_ARGUMENT, "the message is not a HealthCheckRequest") from None
    return service
