"""The asyncio transport: sends a message over gRPC and awaits the response, with retries and hedging."""

# ruff: noqa: ASYNC109 - the timeout is sent with the call, as its gRPC deadline

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Protocol

import grpc

from poolservice_client._settings.settings import Settings
from poolservice_client._stats import Counters
from poolservice_client._transport import fork
from poolservice_client._transport.aio_calls import cancel_call, end_of, start_call
from poolservice_client._transport.call_limits import MAX_CONCURRENT_CALLS, check_size, no_slot_error, remaining
from poolservice_client._transport.channels import make_test_call, open_aio_connection
from poolservice_client._transport.connections import Connection, ConnectionPool, Lease
from poolservice_client._transport.failures import (
    closed_during_call_error,
    closed_error,
    failure_of_rpc,
    is_unreachable,
    require_message,
)
from poolservice_client._transport.methods import HEALTH, SERVER_INFO, SERVER_INFO_REQUEST
from poolservice_client._transport.retry import Attempts, Failure, PartialRetry, Retries
from poolservice_client._transport.trace_context import CallMetadata, Metadata, TraceContext
from poolservice_client._transport.worker_discovery import (
    PROBE_SECONDS,
    SINGLE_WORKER,
    DiscoveryRun,
    Probe,
    WorkerDiscovery,
    WorkerIdentity,
    read_worker_identity,
)
from poolservice_client.errors import PoolError


class AsyncTransport(Protocol):
    """The interface between an AsyncPoolClient and the network. Tests replace it."""

    async def call(
        self,
        method: str,
        request: bytes,
        timeout: float | None,
        partial_retry: PartialRetry | None = None,
        traces: Sequence[TraceContext] | None = None,
    ) -> bytes:
        """See Transport. Cancelling the task cancels the call on the server, too."""
        ...

    async def close(self) -> None:
        """See Transport."""
        ...


class AsyncGrpcTransport:
    """An AsyncTransport over gRPC, for the tasks of one event loop.

    It opens its channels with the first call, so that a client can be created before its event loop runs.
    """

    def __init__(self, settings: Settings, counters: Counters) -> None:
        self._settings = settings
        self._counters = counters
        self._metadata = CallMetadata(settings.metadata)
        self._is_closed = False
        self._reset()
        fork.register(self)

    def _reset(self) -> None:
        self._retries = Retries(self._settings.retries, self._settings.wait_for_ready, self._counters)
        self._slots = asyncio.Semaphore(MAX_CONCURRENT_CALLS)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pool: ConnectionPool | None = None
        self._discovery: WorkerDiscovery | None = None
        self._discovery_task: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._calls: set[Any] = set()

    def after_fork(self) -> None:
        """See fork.ForkAware."""
        fork.keep_inherited(self._pool, self._loop, self._discovery_task, self._calls)
        self._counters.reset()
        self._reset()

    async def call(
        self,
        method: str,
        request: bytes,
        timeout: float | None,
        partial_retry: PartialRetry | None = None,
        traces: Sequence[TraceContext] | None = None,
    ) -> bytes:
        """See AsyncTransport."""
        check_size(request, self._settings)
        pool = self._open()
        deadline = None if timeout is None else time.monotonic() + timeout
        await self._acquire_slot(timeout)
        try:
            self._retries.count_call()
            response = await self._attempt(
                pool, method, request, self._metadata.of_call(traces), timeout, deadline, partial_retry
            )
        except asyncio.CancelledError as error:
            # Closing a channel cancels its calls, although nobody cancelled the tasks that await them.
            if self._is_closed and not _is_task_cancelled():
                raise closed_during_call_error() from None
            # A cancelled task keeps its exception, whose traceback would keep the request.
            request = b""
            raise error.with_traceback(None)  # noqa: B904 - it is the exception itself
        finally:
            self._slots.release()
        self._retries.mark_reached()
        return response

    async def close(self) -> None:
        """See Transport."""
        self._is_closed = True
        if self._discovery_task is not None:
            self._discovery_task.cancel()
            await asyncio.wait([self._discovery_task])
        # Closing a channel cancels its calls, but does not wait until gRPC's core has ended them.
        await asyncio.gather(*map(cancel_call, tuple(self._calls)))
        for connection in self._pool.close() if self._pool else ():
            await connection.channel.close()
        if self._closing:
            await asyncio.wait(self._closing)

    def _open(self) -> ConnectionPool:
        if self._is_closed:
            raise closed_error()
        if self._pool is None:
            with fork.first_use(lambda: make_test_call(self._settings), aio=True):
                self._pool = ConnectionPool.open(self._settings, self._counters, self._open_connection)
            self._discovery = WorkerDiscovery(self._pool)
            self._loop = asyncio.get_running_loop()
        elif self._loop is not asyncio.get_running_loop():
            raise PoolError("this client belongs to another event loop; make one for each loop")
        return self._pool

    def _open_connection(self, address: str) -> Connection:
        return open_aio_connection(self._settings, address)

    def _replace_silent(self, pool: ConnectionPool, connection: Connection, failure: Failure) -> None:
        # All the calls of a connection fail together, and the first one replaces it.
        if failure.is_silent and not connection.is_retired:
            unused = pool.replace(connection, self._open_connection(connection.address))
            if unused is not None:
                self._close_connection(unused)

    def _close_connection(self, connection: Connection) -> None:
        closing = asyncio.ensure_future(connection.channel.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def _acquire_slot(self, timeout: float | None) -> None:
        if not self._slots.locked():
            await self._slots.acquire()
            return
        try:
            async with asyncio.timeout(timeout):
                await self._slots.acquire()
        except TimeoutError:
            raise no_slot_error(self._settings, timeout) from None

    async def _attempt(
        self,
        pool: ConnectionPool,
        method: str,
        request: bytes,
        metadata: Metadata | None,
        timeout: float | None,
        deadline: float | None,
        partial_retry: PartialRetry | None,
    ) -> bytes:
        """Send the request until there is a response or no further attempt."""
        attempts: Attempts | None = None
        failed: Connection | None = None
        while True:
            if time.monotonic() >= pool.discovery_due:
                self._discover_workers(pool)
            with Lease(pool, failed, self._close_connection) as connection:
                try:
                    sent = await self._send(pool, connection, method, request, metadata, deadline)
                    response = require_message(sent, self._settings)
                except grpc.aio.AioRpcError as error:
                    if self._is_closed:
                        raise closed_during_call_error() from None
                    failure = failure_of_rpc(error, self._settings, timeout, len(request))
                except grpc.aio.UsageError:
                    # gRPC raises it for a call on a channel that close() has closed meanwhile.
                    if not self._is_closed:
                        raise
                    raise closed_error() from None
                else:
                    pool.mark_up(connection)
                    retry = None if partial_retry is None else partial_retry(response)
                    if retry is None:
                        return response
                    request, failure = retry
            failed = connection
            attempts = attempts or Attempts(
                self._retries, deadline, once=method == HEALTH, raises_refusals=partial_retry is not None
            )
            other_is_up = failure.is_lost and pool.mark_down(connection)
            await asyncio.sleep(attempts.pause_after(failure, other_is_up=other_is_up))
            if self._is_closed:
                raise closed_during_call_error()
            self._replace_silent(pool, connection, failure)

    async def _send(
        self,
        pool: ConnectionPool,
        connection: Connection,
        method: str,
        request: bytes,
        metadata: Metadata | None,
        deadline: float | None,
    ) -> bytes | None:
        """Send the request once. The response is None if the server sends no message."""
        first = self._start(connection, method, request, metadata, deadline)
        if self._settings.hedge_after is not None and method != HEALTH:
            return await self._hedge(pool, connection, first, method, request, metadata, deadline)
        try:
            await end_of(first)
        except asyncio.CancelledError:
            await cancel_call(first)
            raise
        finally:
            self._calls.discard(first)
        response: bytes | None = await first
        return response

    def _start(
        self, connection: Connection, method: str, request: bytes, metadata: Metadata | None, deadline: float | None
    ) -> Any:
        call = start_call(connection.methods[method], request, remaining(deadline), metadata)
        self._calls.add(call)
        return call

    async def _hedge(
        self,
        pool: ConnectionPool,
        connection: Connection,
        call: Any,
        method: str,
        request: bytes,
        metadata: Metadata | None,
        deadline: float | None,
    ) -> bytes | None:
        """Return the first response of two calls. The second one is sent only if `call` takes long."""
        calls = [call]
        ends = [end_of(call)]
        try:
            await asyncio.wait(ends, timeout=self._settings.hedge_after)
            if ends[0].done() or not self._retries.take_retry():
                await ends[0]
                response: bytes | None = await call
                return response
            self._counters.add("hedges")
            with Lease(pool, connection, self._close_connection) as other:
                calls.append(self._start(other, method, request, metadata, deadline))
                ends.append(end_of(calls[1]))
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                winner = 0 if ends[0].done() else 1
                if await calls[winner].code() is not grpc.StatusCode.OK:
                    winner = 1 - winner
                    await ends[winner]
                response = await calls[winner]
                if winner == 1:
                    self._counters.add("hedges_won")
                return response
        finally:
            for one in calls:
                self._calls.discard(one)
                if not one.done():
                    await cancel_call(one)

    def _discover_workers(self, pool: ConnectionPool) -> None:
        if self._discovery is not None and (run := self._discovery.begin(self._open_connection)) is not None:
            self._discovery_task = asyncio.create_task(self._carry_out(run, pool))

    async def _carry_out(self, run: DiscoveryRun, pool: ConnectionPool) -> None:
        identity: WorkerIdentity | None = None
        probed: Connection | None = None
        try:
            while True:
                step = run.send(identity)
                if isinstance(step, Probe):
                    probed = step.connection
                    identity = await self._probe(probed)
                else:
                    await step.connection.channel.close()
        except StopIteration:
            return
        finally:
            run.close()
            if probed is not None and probed not in pool.all():
                await probed.channel.close()

    async def _probe(self, connection: Connection) -> WorkerIdentity | None:
        try:
            call = start_call(
                connection.methods[SERVER_INFO], SERVER_INFO_REQUEST, PROBE_SECONDS, self._settings.metadata or None
            )
            try:
                await end_of(call)
            except asyncio.CancelledError:
                await cancel_call(call)
                raise
            response = await call
        except grpc.aio.AioRpcError as error:
            return None if is_unreachable(error) else SINGLE_WORKER
        return read_worker_identity(response)


def _is_task_cancelled() -> bool:
    """Return True if someone has cancelled the current task.

    A function of its own: a task that is a local variable in its own traceback is a reference cycle.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
