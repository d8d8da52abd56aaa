"""The blocking transport: sends a message over gRPC and waits for the response, with retries and hedging."""

import sys
import threading
import time
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Any, Protocol, cast

import grpc

from poolservice_client._settings.settings import Settings
from poolservice_client._stats import Counters
from poolservice_client._transport import fork
from poolservice_client._transport.call_limits import MAX_CONCURRENT_CALLS, check_size, no_slot_error, remaining
from poolservice_client._transport.cancellation import Cancellation, Cancelled
from poolservice_client._transport.channels import make_test_call, open_connection
from poolservice_client._transport.connections import Connection, ConnectionPool, Lease
from poolservice_client._transport.discovery_thread import DiscoveryThread
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
    WorkerDiscovery,
    WorkerIdentity,
    read_worker_identity,
)


class Transport(Protocol):
    """The interface between a PoolClient and the network. Tests replace it."""

    def call(
        self,
        method: str,
        request: bytes,
        timeout: float | None,
        cancellation: Cancellation | None = None,
        partial_retry: PartialRetry | None = None,
        traces: Sequence[TraceContext] | None = None,
    ) -> bytes:
        """Send a message, wait for the response, and retry if that may help.

        Args:
            method: the path of the gRPC method, "/package.Service/Method".
            request: the encoded message.
            timeout: seconds until the call must have ended; None for no limit.
            cancellation: cancels the call from another thread.
            partial_retry: decides from each response whether a part of the request is sent again; see PartialRetry.
            traces: the trace contexts of the message's callers. Default: that of the current thread or task.

        Returns:
            The encoded response.

        Raises:
            PoolError: the call failed; Cancelled if it was cancelled; Refused, only with a `partial_retry`, if the
                server refused it and said when to send it again.
        """
        ...

    def close(self) -> None:
        """End all calls and close the connections. A second time has no effect."""
        ...


class GrpcTransport:
    """A Transport over gRPC. Thread-safe, and usable in processes forked from this one."""

    def __init__(self, settings: Settings, counters: Counters) -> None:
        self._settings = settings
        self._counters = counters
        self._metadata = CallMetadata(settings.metadata)
        self._reset()
        fork.register(self)

    def _reset(self) -> None:
        self._opening = threading.Lock()
        self._pool: ConnectionPool | None = None
        self._discovery: WorkerDiscovery | None = None
        self._discovery_thread = DiscoveryThread()
        self._retries = Retries(self._settings.retries, self._settings.wait_for_ready, self._counters)
        self._slots = threading.BoundedSemaphore(MAX_CONCURRENT_CALLS)
        self._closed = threading.Event()

    def after_fork(self) -> None:
        """See fork.ForkAware."""
        if self._pool is not None:
            fork.keep_inherited(self._pool)
        was_closed = self._closed.is_set()
        self._counters.reset()
        self._reset()
        if was_closed:
            self._closed.set()

    def call(
        self,
        method: str,
        request: bytes,
        timeout: float | None,
        cancellation: Cancellation | None = None,
        partial_retry: PartialRetry | None = None,
        traces: Sequence[TraceContext] | None = None,
    ) -> bytes:
        """See Transport."""
        check_size(request, self._settings)
        pool = self._open()
        deadline = None if timeout is None else time.monotonic() + timeout
        self._acquire_slot(timeout)
        try:
            self._retries.count_call()
            response = self._attempt(
                pool, method, request, self._metadata.of_call(traces), timeout, deadline, cancellation, partial_retry
            )
        finally:
            self._slots.release()
        self._retries.mark_reached()
        return response

    def close(self) -> None:
        """See Transport."""
        if sys.is_finalizing():
            # A thread that no longer runs may hold a lock of this client or of gRPC. The end of the process closes the
            # connections.
            return
        self._closed.set()
        with self._opening:
            pool = self._pool
        if pool is None:
            return
        for connection in pool.close():
            self._close_connection(connection)
        self._discovery_thread.close()
        # Worker discovery may have opened connections meanwhile.
        for connection in pool.close():
            self._close_connection(connection)

    def _open(self) -> ConnectionPool:
        if self._closed.is_set():
            raise closed_error()
        if self._pool is None:
            with self._opening:
                if self._pool is None:
                    with fork.first_use(lambda: make_test_call(self._settings)):
                        pool = ConnectionPool.open(
                            self._settings, self._counters, lambda address: open_connection(self._settings, address)
                        )
                    self._discovery = WorkerDiscovery(pool)
                    self._pool = pool
        return self._pool

    def _open_connection(self, address: str) -> Connection:
        with fork.deferred():
            return open_connection(self._settings, address)

    def _replace_silent(self, pool: ConnectionPool, connection: Connection, failure: Failure) -> None:
        # All the calls of a connection fail together, and the first one replaces it.
        if failure.is_silent and not connection.is_retired:
            unused = pool.replace(connection, self._open_connection(connection.address))
            if unused is not None:
                self._close_connection(unused)

    def _close_connection(self, connection: Connection) -> None:
        with fork.deferred():
            connection.channel.close()

    def _acquire_slot(self, timeout: float | None) -> None:
        if not self._slots.acquire(blocking=False) and not self._slots.acquire(timeout=timeout):
            raise no_slot_error(self._settings, timeout)

    def _attempt(
        self,
        pool: ConnectionPool,
        method: str,
        request: bytes,
        metadata: Metadata | None,
        timeout: float | None,
        deadline: float | None,
        cancellation: Cancellation | None,
        partial_retry: PartialRetry | None,
    ) -> bytes:
        """Send the request until there is a response or no further attempt."""
        attempts: Attempts | None = None
        failed: Connection | None = None
        while True:
            if time.monotonic() >= pool.discovery_due:
                self._discover_workers()
            with Lease(pool, failed, self._close_connection) as connection, fork.deferred():
                try:
                    sent = self._send(pool, connection, method, request, metadata, deadline, cancellation)
                    response = require_message(sent, self._settings)
                except grpc.RpcError as error:
                    if self._closed.is_set():
                        raise closed_during_call_error() from None
                    # The error that a blocking call raises is also the call, with its status.
                    failure = failure_of_rpc(cast(grpc.Call, error), self._settings, timeout, len(request))
                except ValueError:
                    # gRPC raises it for a call on a channel that close() has closed meanwhile.
                    if not self._closed.is_set():
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
            self._pause(attempts.pause_after(failure, other_is_up=other_is_up), cancellation)
            self._replace_silent(pool, connection, failure)

    def _send(
        self,
        pool: ConnectionPool,
        connection: Connection,
        method: str,
        request: bytes,
        metadata: Metadata | None,
        deadline: float | None,
        cancellation: Cancellation | None,
    ) -> bytes | None:
        """Send the request once. The response is None if the server sends no message."""
        if cancellation is None and self._settings.hedge_after is None:
            return cast(
                bytes | None, connection.methods[method](request, timeout=remaining(deadline), metadata=metadata)
            )
        if cancellation is not None:
            cancellation.check()
        call = connection.methods[method].future(request, timeout=remaining(deadline), metadata=metadata)
        if cancellation is None:
            return self._hedge(pool, connection, call, method, request, metadata, deadline)
        with cancellation.on_cancel(call.cancel):
            try:
                if self._settings.hedge_after is None:
                    return cast(bytes | None, call.result())
                return self._hedge(pool, connection, call, method, request, metadata, deadline)
            except grpc.FutureCancelledError:
                raise Cancelled from None

    def _hedge(
        self,
        pool: ConnectionPool,
        connection: Connection,
        first: Any,
        method: str,
        request: bytes,
        metadata: Metadata | None,
        deadline: float | None,
    ) -> bytes | None:
        """Return the first response of two calls. The second one is sent only if `first` takes long."""
        try:
            return cast(bytes | None, first.result(self._settings.hedge_after))
        except grpc.FutureTimeoutError:
            if method == HEALTH or not self._retries.take_retry():
                return cast(bytes | None, first.result())
        self._counters.add("hedges")
        with Lease(pool, connection, self._close_connection) as other:
            second = other.methods[method].future(request, timeout=remaining(deadline), metadata=metadata)
            ended: SimpleQueue[Any] = SimpleQueue()
            for call in (first, second):
                call.add_done_callback(ended.put)
            try:
                winner = ended.get()
                if winner.code() is not grpc.StatusCode.OK and not first.cancelled():
                    winner = ended.get()
                if winner is second:
                    self._counters.add("hedges_won")
                return cast(bytes | None, winner.result())
            finally:
                first.cancel()
                second.cancel()

    def _pause(self, seconds: float, cancellation: Cancellation | None) -> None:
        if cancellation is not None:
            cancellation.sleep(seconds)
        if self._closed.wait(0 if cancellation is not None else seconds):
            raise closed_during_call_error()

    def _discover_workers(self) -> None:
        if self._discovery is not None and (run := self._discovery.begin(self._open_connection)) is not None:
            self._discovery_thread.start(run, self._probe, self._close_connection)

    def _probe(self, connection: Connection) -> WorkerIdentity | None:
        if self._closed.is_set():
            return None
        try:
            with fork.deferred():
                response = connection.methods[SERVER_INFO](
                    SERVER_INFO_REQUEST, timeout=PROBE_SECONDS, metadata=self._settings.metadata or None
                )
        except grpc.RpcError as error:
            return None if is_unreachable(cast(grpc.Call, error)) else SINGLE_WORKER
        except ValueError:
            # The client was closed meanwhile.
            return None
        return read_worker_identity(response)
