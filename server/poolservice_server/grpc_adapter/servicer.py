"""The methods of PoolService: passes gRPC calls to the core and turns its outcomes into gRPC statuses."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from google.rpc import status_pb2

from poolservice.errors import InvalidRequest
from poolservice.v1 import pool_pb2
from poolservice_server.core.call_ids import REQUEST_ID_KEY, with_request_id
from poolservice_server.core.call_record import CallObserver, CallRecord
from poolservice_server.core.service import Call, PoolService
from poolservice_server.error_status import to_status
from poolservice_server.grpc_adapter.abort import abort
from poolservice_server.grpc_adapter.active_calls import ActiveCall, ActiveCalls
from poolservice_server.grpc_adapter.caller import CallerNames
from poolservice_server.grpc_adapter.send_pacing import LARGE_BYTES, SendPacing

SERVICE_NAME = pool_pb2.DESCRIPTOR.services_by_name["PoolService"].full_name

# The code of a successful call.
_OK = "OK"

_Context = grpc.aio.ServicerContext[Any, Any]

# What a server passes in place of a message: an iterator over messages, which is not used, or the call's task.
_Source = AsyncIterator[bytes] | asyncio.Task[object]


class PoolServicer:
    """The link between a grpc.aio server and the core. Messages pass as bytes, without protobuf's classes.

    Each method reads its messages itself, so that a call without a valid token is refused before its message is read.
    To gRPC, a method with one request is therefore one with a stream of requests, of which it reads the first.

    Args:
        service: the core.
        observe: called with the record of each call that has ended.
        callers: names the caller of each call, or refuses the call.
        calls: has the calls in progress.
        always_sends_id: whether a successful call gets its request id, too. It costs 2 % of the time of a small call.

    Attributes:
        in_progress: calls that have started and not ended, those that are about to be refused included.
    """

    def __init__(
        self,
        service: PoolService,
        observe: CallObserver,
        callers: CallerNames,
        calls: ActiveCalls,
        *,
        always_sends_id: bool,
    ) -> None:
        self.in_progress = 0
        self._service = service
        self._observe = observe
        self._callers = callers
        self._calls = calls
        self._pacing = SendPacing()
        self._always_sends_id = always_sends_id

    def add_to(self, server: grpc.aio.Server) -> None:
        """Add the methods to `server`, which must not have started yet."""
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Pool": self._unary("Pool", self._service.pool),
            "PoolBatch": self._unary("PoolBatch", self._service.pool_batch),
            "PoolStream": self._stream(),
            "GetServerInfo": self._unary("GetServerInfo", self._service.server_info),
        }
        # grpc.aio ignores registered methods before grpcio 1.84 and prefers them from then on.
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE_NAME, handlers),))
        server.add_registered_method_handlers(SERVICE_NAME, handlers)

    def _unary(self, name: str, method: Callable[[Call], Awaitable[bytes]]) -> "grpc.RpcMethodHandler[Any, Any]":
        calls, caller_of, pacing = self._calls, self._callers.caller_of, self._pacing

        async def handle(source: _Source, context: _Context) -> Any:
            record = self._start(name, context)
            active: ActiveCall | None = None
            try:
                caller = record.caller = caller_of(context)
                active = calls.start(source, record.started, caller)
                message = await context.read()
                active.received()
                if message is grpc.aio.EOF:
                    raise InvalidRequest(f"the call ended without a message; {name} takes one")
                record.received_bytes = len(message)
                call = Call(message, _deadline(context), caller, active.hold, name, record)
                # The response may wait for a long time, in which nobody needs the request.
                del message
                response = await method(call)
                if len(response) > LARGE_BYTES:
                    await pacing.wait(len(response))
            except BaseException as error:  # noqa: BLE001 - every error becomes a status
                status = _status_of(error, active, record)
                record.fail(error, status)
                # A call without a valid token has no caller yet.
                record.caller = record.caller or context.peer()
            else:
                record.code, record.sent_bytes = _OK, len(response)
                active.sending()
                return response
            finally:
                self._end(record)
            return await _abort(context, status, active, record)

        return grpc.stream_unary_rpc_method_handler(handle)

    def _stream(self) -> "grpc.RpcMethodHandler[Any, Any]":
        async def respond(active: ActiveCall, context: _Context, record: CallRecord) -> None:
            # Otherwise grpc.aio sends the headers with the first response and, if that fails, with the next one again.
            # gRPC's core refuses them the second time, and grpc.aio would then never release the response.
            await context.send_initial_metadata(())

            async def messages() -> AsyncIterator[bytes]:
                while (message := await context.read()) is not grpc.aio.EOF:
                    active.received()
                    record.received_bytes += len(message)
                    yield message
                    active.receiving_next()

            async def send(response: bytes) -> None:
                if len(response) > LARGE_BYTES:
                    await self._pacing.wait(len(response))
                active.sending()
                await context.write(response)
                record.sent_bytes += len(response)
                active.sent()

            await self._service.pool_stream(
                messages(), send, deadline=_deadline(context), caller=active.caller, record=record
            )

        async def handle(source: _Source, context: _Context) -> None:
            record = self._start("PoolStream", context)
            active: ActiveCall | None = None
            try:
                record.caller = self._callers.caller_of(context)
                active = self._calls.start(source, record.started, record.caller)
                await respond(active, context, record)
            except BaseException as error:  # noqa: BLE001 - every error becomes a status
                status = _status_of(error, active, record)
                record.fail(error, status)
                # A call without a valid token has no caller yet.
                record.caller = record.caller or context.peer()
            else:
                record.code = _OK
                return
            finally:
                self._end(record)
            await _abort(context, status, active, record)

        return grpc.stream_stream_rpc_method_handler(handle)

    def _start(self, method: str, context: _Context) -> CallRecord:
        self.in_progress += 1
        record = CallRecord(method, time.perf_counter(), context.invocation_metadata)
        if self._always_sends_id:
            context.set_trailing_metadata(((REQUEST_ID_KEY, record.ids.request_id),))
        return record

    def _end(self, record: CallRecord) -> None:
        self.in_progress -= 1
        self._observe(record)


def _status_of(error: BaseException, active: ActiveCall | None, record: CallRecord) -> status_pb2.Status:
    """Return the status with which an error ends a call.

    Raises:
        CancelledError: the caller has left, or cannot receive a status.
    """
    if isinstance(error, asyncio.CancelledError):
        # While a response is sent, the status would have to wait for it, and the caller does not read it.
        if active is None or active.ended_with is None or active.is_sending:
            raise error
        return with_request_id(active.ended_with, record.ids.request_id)
    if isinstance(error, grpc.aio.BaseError):
        # The caller has left: gRPC can neither receive nor send.
        raise asyncio.CancelledError from None
    if not isinstance(error, Exception):
        raise error
    return to_status(error, record.ids.request_id)


def _deadline(context: _Context) -> float | None:
    """Return the call's deadline on the monotonic clock, in seconds, or None if it has none."""
    remaining: float | None = context.time_remaining()
    return None if remaining is None else time.monotonic() + remaining


async def _abort(context: _Context, status: status_pb2.Status, active: ActiveCall | None, record: CallRecord) -> Any:
    """End the call with `status`; never returns."""
    if active is not None:
        active.sending()
    return await abort(context, status, record.ids.request_id)
