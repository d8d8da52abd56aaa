"""PoolService in Serve's gRPC proxy.

Serve routes each call to the method of a replica that has its name. It knows nothing of deadlines, of the details of a
status, or of requests that may be sent again. The handlers of this module add that around Serve's own:

- The caller's deadline travels to the replica, which drops requests that nobody waits for any more.
- A failed request ends with the status and the details that the replica found.
- What Serve reports as an internal error, such as the end of a replica, is UNAVAILABLE, which clients retry.
- A stream is split into its requests. Each goes to a replica with a short queue, and has an outcome of its own if that
  replica ends.

A deployment file names `add_pool_service` and `add_health` in `grpc_servicer_functions`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from google.rpc import code_pb2, status_pb2

from poolservice import codec
from poolservice.errors import InvalidRequest
from poolservice.v1 import pool_pb2
from poolservice_server.core.call_ids import read_call_ids, with_request_id
from poolservice_server.core.flow_control import FlowControl
from poolservice_server.grpc_adapter.abort import abort
from poolservice_server.ray.local_callers import is_local
from poolservice_server.ray.serve_call import CallFailed, ServeMethod, call_replica

POOL_SERVICE = pool_pb2.DESCRIPTOR.services_by_name["PoolService"].full_name
HEALTH_SERVICE = "grpc.health.v1.Health"

_Context = grpc.aio.ServicerContext[Any, Any]

_NOT_LOCAL = status_pb2.Status(
    code=code_pb2.PERMISSION_DENIED,
    message="this server takes calls of its own machine only; start it with --address 0.0.0.0:PORT and --insecure",
)
_NO_MESSAGE = status_pb2.Status(
    code=code_pb2.INVALID_ARGUMENT, message="the call ended without a message; the method takes one"
)


def add_pool_service(_servicer: object, server: Any) -> None:
    """Add PoolService to Serve's gRPC server."""
    _add_methods(server, POOL_SERVICE, ("Pool", "PoolBatch", "GetServerInfo"), stream="PoolStream")


def add_local_pool_service(_servicer: object, server: Any) -> None:
    """Add PoolService to Serve's gRPC server, for callers on this machine. The server listens on every interface."""
    _add_methods(server, POOL_SERVICE, ("Pool", "PoolBatch", "GetServerInfo"), stream="PoolStream", only_local=True)


def add_health(_servicer: object, server: Any) -> None:
    """Add the health check to Serve's gRPC server. A replica responds to it.

    Watch does not exist here: it would be a call in progress for which a replica that drains has to wait.
    """
    _add_methods(server, HEALTH_SERVICE, ("Check",))


def _add_methods(
    server: Any, service: str, methods: tuple[str, ...], *, stream: str | None = None, only_local: bool = False
) -> None:
    server.add_generic_rpc_handlers((_ServiceHandler(service, methods, stream, only_local=only_local),))


class _ServiceHandler(grpc.GenericRpcHandler):
    """The methods of a service, around the ones by which Serve replaces them.

    Serve replaces the entries of `_method_handlers` when the handler is added to its server, and gRPC asks `service`
    for each call.
    """

    def __init__(self, service: str, methods: tuple[str, ...], stream: str | None, *, only_local: bool) -> None:
        names = methods if stream is None else (*methods, stream)
        self._method_handlers: dict[str, Any] = {
            f"/{service}/{name}": grpc.unary_unary_rpc_method_handler(_without_serve) for name in names
        }
        self._stream = f"/{service}/{stream}"
        self._only_local = only_local
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """Return the handler of a call's method; None if the service does not have it."""
        method: str = handler_call_details.method
        handler = self._handlers.get(method)
        if handler is None and method in self._method_handlers:
            serve_method: ServeMethod = self._method_handlers[method].unary_unary
            # To gRPC, a method with one request is one with a stream of requests, so that a call which is refused ends
            # before its message is read.
            if method == self._stream:
                handler = grpc.stream_stream_rpc_method_handler(self._handle(serve_method, _respond_to_stream))
            else:
                handler = grpc.stream_unary_rpc_method_handler(self._handle(serve_method, _respond))
            self._handlers[method] = handler
        return handler

    def _handle(
        self, serve_method: ServeMethod, respond: Callable[[ServeMethod, _Context, str], Awaitable[Any]]
    ) -> Callable[[object, _Context], Awaitable[Any]]:
        async def handle(_source: object, context: _Context) -> Any:
            # Here and not in the replica, whose log would not know the id of a call that does not reach it.
            request_id = read_call_ids(context.invocation_metadata() or ()).request_id
            try:
                if self._only_local and not is_local(context.peer()):
                    raise CallFailed(with_request_id(_NOT_LOCAL, request_id))
                return await respond(serve_method, context, request_id)
            except CallFailed as failed:
                status = failed.status
            except grpc.aio.BaseError:
                # The caller has left: gRPC can neither receive nor send.
                raise asyncio.CancelledError from None
            return await abort(context, status, request_id)

        return handle


async def _respond(serve_method: ServeMethod, context: _Context, request_id: str) -> bytes:
    message = await context.read()
    if message is grpc.aio.EOF:
        raise CallFailed(with_request_id(_NO_MESSAGE, request_id))
    return await call_replica(serve_method, message, context, request_id)


async def _respond_to_stream(serve_method: ServeMethod, context: _Context, request_id: str) -> None:
    """Let replicas respond to each request of a stream, as far as the flow control lets requests in."""
    await context.send_initial_metadata(())
    flow_control = FlowControl()
    sending = asyncio.Lock()

    async def respond(message: bytes) -> None:
        nbytes = len(message)
        try:
            try:
                response = await call_replica(serve_method, message, context, request_id)
            except CallFailed as failed:
                response = _outcome(message, failed)
            flow_control.add(len(response))
            nbytes += len(response)
            async with sending:
                await context.write(response)
        finally:
            flow_control.release(nbytes)

    failed: BaseException | None = None
    try:
        async with asyncio.TaskGroup() as responses:
            while (message := await context.read()) is not grpc.aio.EOF:
                await flow_control.acquire(len(message))
                responses.create_task(respond(message))
                del message
    except ExceptionGroup as errors:
        # The stream ends with the first of them: the caller has left, or a message is not a PoolStreamRequest.
        failed = errors.exceptions[0]
    if failed is not None:
        raise failed


def _outcome(message: bytes, failed: CallFailed) -> bytes:
    """Return the outcome of a request of a stream that failed in Serve.

    Raises:
        CallFailed: the failure ends the stream.
    """
    if not failed.is_serves:
        raise failed
    try:
        correlation_id, _ = codec.decode_stream_request(message)
    except InvalidRequest:
        raise failed from None
    return codec.encode_stream_response(correlation_id, failed.status, None)


async def _without_serve(_message: bytes, _context: object) -> bytes:
    raise RuntimeError("this release of Ray Serve does not route the methods of a servicer function to its replicas")
