"""The methods of PoolService: passes gRPC calls to the core and turns its outcomes into gRPC statuses."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from google.rpc import code_pb2, status_pb2

from poolservice.v1 import pool_pb2
from poolservice_server.core.service import Call, PoolService
from poolservice_server.error_status import to_status
from poolservice_server.grpc_adapter.auth import TokenAuthenticator
from poolservice_server.metrics import CallMetrics

SERVICE_NAME = pool_pb2.DESCRIPTOR.services_by_name["PoolService"].full_name

#: The trailing metadata key of a failed call's google.rpc.Status, by gRPC's convention.
STATUS_DETAILS_KEY = "grpc-status-details-bin"

_STATUS_CODES = {code.value[0]: code for code in grpc.StatusCode}

# The codes under which the metrics count a successful call and a call that its caller cancelled.
_OK = "OK"
_CANCELLED = "CANCELLED"

_Context = grpc.aio.ServicerContext[Any, Any]


class PoolServicer:
    """The link between a grpc.aio server and the core. Messages pass as bytes, without protobuf's classes.

    Args:
        service: the core.
        metrics: counts each call by method and status code.
        authenticator: checks the bearer token of each call.
    """

    def __init__(self, service: PoolService, metrics: CallMetrics, authenticator: TokenAuthenticator) -> None:
        self._service = service
        self._metrics = metrics
        self._authenticator = authenticator
        self._requires_token = bool(authenticator)

    def add_to(self, server: grpc.aio.Server) -> None:
        """Add the methods to `server`, which must not have started yet."""
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Pool": self._unary("Pool", self._service.pool),
            "PoolBatch": self._unary("PoolBatch", self._service.pool_batch),
            "PoolStream": grpc.stream_stream_rpc_method_handler(self._pool_stream),
            "GetServerInfo": self._unary("GetServerInfo", self._service.server_info),
        }
        # grpc.aio ignores registered methods before grpcio 1.84 and prefers them from then on.
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE_NAME, handlers),))
        server.add_registered_method_handlers(SERVICE_NAME, handlers)

    async def _pool_stream(self, messages: AsyncIterator[bytes], context: _Context) -> None:
        started, code, caller, reason = self._metrics.started(), _CANCELLED, "", ""
        try:
            if self._requires_token:
                caller = self._check_token(context)
            await self._service.pool_stream(messages, context.write, _deadline(context))
        except Exception as error:  # noqa: BLE001 - every error becomes a status
            status = to_status(error)
            code, reason = code_pb2.Code.Name(status.code), status.message
        else:
            code = _OK
            return
        finally:
            self._metrics.ended("PoolStream", code, started, caller, reason)
        await _abort(context, status)

    def _unary(self, name: str, method: Callable[[Call], Awaitable[bytes]]) -> "grpc.RpcMethodHandler[Any, Any]":
        async def handle(message: bytes, context: _Context) -> bytes:
            started, code, caller, reason = self._metrics.started(), _CANCELLED, "", ""
            try:
                if self._requires_token:
                    caller = self._check_token(context)
                response = await method(Call(message, _deadline(context)))
            except Exception as error:  # noqa: BLE001 - every error becomes a status
                status = to_status(error)
                code, reason = code_pb2.Code.Name(status.code), status.message
            else:
                code = _OK
                return response
            finally:
                self._metrics.ended(name, code, started, caller, reason)
            return await _abort(context, status)

        return grpc.unary_unary_rpc_method_handler(handle)

    def _check_token(self, context: _Context) -> str:
        return self._authenticator.check([(key, value) for key, value in context.invocation_metadata() or ()])


def _deadline(context: _Context) -> float | None:
    """Return the call's deadline on the monotonic clock, in seconds, or None if it has none."""
    remaining: float | None = context.time_remaining()
    return None if remaining is None else time.monotonic() + remaining


async def _abort(context: _Context, status: status_pb2.Status) -> bytes:
    """End the call with `status`; never returns."""
    details = ((STATUS_DETAILS_KEY, status.SerializeToString()),)
    await context.abort(_STATUS_CODES[status.code], status.message, details)
    raise AssertionError("abort always raises")
