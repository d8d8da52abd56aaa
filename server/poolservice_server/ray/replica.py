"""One replica of the deployment: the core, whose requests come from Serve instead of a gRPC server."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import ray
from google.rpc import status_pb2

from poolservice_server.core.call import Call
from poolservice_server.core.call_record import CallRecord
from poolservice_server.error_status import to_status
from poolservice_server.grpc_adapter.abort import STATUS_DETAILS_KEY
from poolservice_server.ray.replica_health import ReplicaHealth
from poolservice_server.ray.serve_call import SECONDS_LEFT_KEY
from poolservice_server.readiness import Readiness
from poolservice_server.settings import Settings

# The code of a successful call.
_OK = "OK"

# The longest time for which the end of a replica waits for a collector of traces.
_CLOSE_SECONDS = 5.0


class EncodedMessage:
    """An encoded message. Serve calls `SerializeToString` of what a method returns, as of a message of protobuf."""

    __slots__ = ("_encoded",)

    def __init__(self, encoded: bytes) -> None:
        self._encoded = encoded

    def SerializeToString(self) -> bytes:
        """Return the encoded message."""
        return self._encoded


class Replica:
    """The methods that Serve's proxy calls. Each takes an encoded message, and the context that Serve carries.

    Serve creates it in the event loop that runs its methods.

    Args:
        settings: the server's settings.
    """

    # None until the replica has started: Serve ends one that could not start, too.
    _close: Callable[[], Awaitable[None]] | None = None

    def __init__(self, settings: Settings) -> None:
        # Imported here because only replicas need torch, which takes seconds to import.
        from poolservice_server import allocator, log
        from poolservice_server.assembled_service import AssembledService, open_backend
        from poolservice_server.backbones.loading import load_backbones
        from poolservice_server.backend import torch_version
        from poolservice_server.observers import Observers
        from poolservice_server.pool_heads.loading import load_pool_heads

        log.configure(settings.log_level, settings.log_format)
        allocator.keep_large_messages()
        cores = _cores()
        backend = open_backend(settings)
        backbones = load_backbones(settings, backend, cores=cores)
        pool_heads = load_pool_heads(settings)
        device = backend.devices()[0]
        self._description = f"{device.name} ({device.description}, torch {torch_version()})"
        self._observers = Observers(settings, 0, [], [])
        self._assembled = AssembledService(
            settings,
            backend,
            backbones,
            pool_heads,
            worker=0,
            cores=cores,
            observe=self._observers.observe_request,
        )
        readiness = Readiness(backend)
        self._health = ReplicaHealth(readiness, backbones)
        self._ready = asyncio.get_running_loop().create_task(readiness.start())

        async def close() -> None:
            readiness.drain()
            self._assembled.close()
            await self._observers.close(_CLOSE_SECONDS)

        self._close = close

    async def Pool(self, message: bytes, grpc_context: Any) -> EncodedMessage:
        """Respond to a PoolRequest."""
        return await self._respond("Pool", self._assembled.service.pool, message, grpc_context)

    async def PoolBatch(self, message: bytes, grpc_context: Any) -> EncodedMessage:
        """Respond to a PoolBatchRequest."""
        return await self._respond("PoolBatch", self._assembled.service.pool_batch, message, grpc_context)

    async def GetServerInfo(self, message: bytes, grpc_context: Any) -> EncodedMessage:
        """Respond to a GetServerInfoRequest."""
        return await self._respond("GetServerInfo", self._assembled.service.server_info, message, grpc_context)

    async def PoolStream(self, message: bytes, grpc_context: Any) -> EncodedMessage:
        """Respond to one PoolStreamRequest. The proxy has the stream."""
        return await self._respond("PoolStream", self._stream_response, message, grpc_context)

    async def Check(self, message: bytes, grpc_context: Any) -> EncodedMessage:
        """Respond to a HealthCheckRequest."""
        response = self._health.check(message)
        return EncodedMessage(response) if isinstance(response, bytes) else _failed(response, grpc_context)

    async def check_health(self) -> None:
        """Raise if the devices do not compute. Serve calls this, and replaces a replica that fails it repeatedly."""
        await self._ready
        self._health.require_ready()

    async def describe(self) -> str:
        """Return the device, its description and torch's version."""
        return self._description

    async def __del__(self) -> None:
        """End the threads and processes. Serve calls this once the replica has no call in progress."""
        if self._close is not None:
            await self._close()

    async def _respond(
        self, name: str, method: Callable[[Call], Awaitable[bytes]], message: bytes, context: Any
    ) -> EncodedMessage:
        record = CallRecord(name, time.perf_counter(), context.invocation_metadata)
        record.caller, record.received_bytes = context.peer(), len(message)
        call = Call(message, _deadline(context), record.caller, method=name, record=record)
        # The response may wait for a long time, in which nobody needs the request.
        del message
        try:
            response = await method(call)
        except Exception as error:  # noqa: BLE001 - every error becomes a status
            status = to_status(error, record.ids.request_id)
            record.fail(error, status)
            return _failed(status, context)
        else:
            record.code, record.sent_bytes = _OK, len(response)
            return EncodedMessage(response)
        finally:
            self._observers.observe_call(record)

    async def _stream_response(self, call: Call) -> bytes:
        responses: list[bytes] = []

        async def messages() -> AsyncIterator[bytes]:
            yield call.message

        async def send(response: bytes) -> None:
            responses.append(response)

        await self._assembled.service.pool_stream(
            messages(), send, deadline=call.deadline, caller=call.caller, record=call.record
        )
        return responses[0]


def _failed(status: status_pb2.Status, context: Any) -> EncodedMessage:
    """Let the proxy end the call with `status`. Serve would report an exception as INTERNAL, without details."""
    context.set_trailing_metadata([(STATUS_DETAILS_KEY, status.SerializeToString())])
    return EncodedMessage(b"")


def _cores() -> int:
    """Return the number of cores that Ray has reserved for this replica; at least 1."""
    return max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 0.0)))


def _deadline(context: Any) -> float | None:
    """Return the call's deadline on this machine's monotonic clock; None if it has none."""
    for key, value in context.invocation_metadata():
        if key == SECONDS_LEFT_KEY:
            return time.monotonic() + float(value)
    return None
