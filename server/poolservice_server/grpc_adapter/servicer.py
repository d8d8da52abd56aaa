"""The grpcio front: calls of grpc.aio to the heart, outcomes to gRPC's statuses. Nothing else lives here."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from google.rpc import code_pb2, status_pb2

from poolservice.v1 import pool_pb2
from poolservice_server.core.service import Call, PoolService
from poolservice_server.errors import to_status
from poolservice_server.grpc_adapter.auth import TokenAuthenticator
from poolservice_server.metrics import CallMetrics

SERVICE_NAME = pool_pb2.DESCRIPTOR.services_by_name["PoolService"].full_name

#: Where the google.rpc.Status of a failed call travels, by gRPC's convention.
STATUS_DETAILS_KEY = "grpc-status-details-bin"

_STATUS_CODES = {code.value[0]: code for code in grpc.StatusCode}

# How a call is counted that was answered, and one whose caller left.
_OK = "OK"
_LEFT = "CANCELLED"

_Context = grpc.aio.ServicerContext[Any, Any]


class PoolServicer:
    """Stands between a grpc.aio server and the heart; messages pass as bytes, without protobuf's classes."""

    def __init__(self, service: PoolService, metrics: CallMetrics, access: TokenAuthenticator) -> None:
        self._service = service
        self._metrics = metrics
        self._access = access
        self._guarded = bool(access)

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register the methods of the contract with `server`, which has not started yet."""
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Pool": self._unary("Pool", self._service.pool),
            "PoolBatch": self._unary("PoolBatch", self._service.pool_batch),
            "PoolStream": grpc.stream_stream_rpc_method_handler(self._pool_stream),
            "GetServerInfo": self._unary("GetServerInfo", self._service.server_info),
        }
        server.add_registered_method_handlers(SERVICE_NAME, handlers)

    async def _pool_stream(self, messages: AsyncIterator[bytes], context: _Context) -> None:
        started, code = self._metrics.started(), _LEFT
        try:
            if self._guarded:
                self._check_access(context)
            await self._service.pool_stream(messages, context.write, _deadline(context))
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller is told by a status
            status = to_status(error)
            code = code_pb2.Code.Name(status.code)
        else:
            code = _OK
            return
        finally:
            self._metrics.ended("PoolStream", code, started)
        await _abort(context, status)

    def _unary(self, name: str, method: Callable[[Call], Awaitable[bytes]]) -> "grpc.RpcMethodHandler[Any, Any]":
        async def answer(message: bytes, context: _Context) -> bytes:
            started, code = self._metrics.started(), _LEFT
            try:
                if self._guarded:
                    self._check_access(context)
                response = await method(Call(message, _deadline(context)))
            except Exception as error:  # noqa: BLE001 - whatever it is, the caller is told by a status
                status = to_status(error)
                code = code_pb2.Code.Name(status.code)
            else:
                code = _OK
                return response
            finally:
                self._metrics.ended(name, code, started)
            return await _abort(context, status)

        return grpc.unary_unary_rpc_method_handler(answer)

    def _check_access(self, context: _Context) -> None:
        self._access.check([(key, value) for key, value in context.invocation_metadata() or ()])


def _deadline(context: _Context) -> float | None:
    remaining: float | None = context.time_remaining()
    return None if remaining is None else time.monotonic() + remaining


async def _abort(context: _Context, status: status_pb2.Status) -> bytes:
    details = ((STATUS_DETAILS_KEY, status.SerializeToString()),)
    await context.abort(_STATUS_CODES[status.code], status.message, details)
    raise AssertionError("abort always raises")
