"""How bytes reach a server and come back."""

import threading
import time
from collections.abc import Iterable, Iterator
from queue import SimpleQueue
from typing import Any, Protocol, cast

import grpc

from poolservice_client._response.server_info import INFO_REQUEST, read_place
from poolservice_client._settings.settings import Settings
from poolservice_client._stats import Counters
from poolservice_client._transport import fork
from poolservice_client._transport.calls import (
    ASK_SECONDS,
    MAX_CALLS_IN_FLIGHT,
    check_size,
    closed_before,
    closed_within,
    failure_of_rpc,
    first_connections,
    late,
    left_of,
    place_of_refusal,
)
from poolservice_client._transport.cancellation import Cancellation, Cancelled
from poolservice_client._transport.channels import (
    HEALTH,
    POOL,
    POOL_BATCH,
    POOL_STREAM,
    SERVER_INFO,
    check_alive,
    open_connection,
)
from poolservice_client._transport.connections import Connection, ConnectionPool, Lease, Place
from poolservice_client._transport.retry import Attempts, Remainder, Retries
from poolservice_client._transport.worker_discovery import WorkerDiscovery

__all__ = [
    "HEALTH",
    "MAX_CALLS_IN_FLIGHT",
    "POOL",
    "POOL_BATCH",
    "POOL_STREAM",
    "SERVER_INFO",
    "GrpcTransport",
    "Transport",
]


class Transport(Protocol):
    """The seam between a PoolClient and the network: whole messages out, whole messages in."""

    def call(
        self,
        method: str,
        request: bytes,
        timeout: float | None,
        cancellation: Cancellation | None = None,
        remainder: Remainder | None = None,
    ) -> bytes:
        """Send a message to a method and wait for its answer, trying again where that may help.

        Args:
            method: the path, "/package.Service/Method".
            request: the encoded message.
            timeout: seconds until the answer must be there; None waits for ever.
            cancellation: what may end the call from another thread.
            remainder: called with each response; what it returns is sent as the next attempt of this call.

        Raises:
            PoolError: no answer; which of its kinds says why: Cancelled, where it was cancelled.
        """
        ...

    def close(self) -> None:
        """End what is under way and give the connections back. A second time does nothing."""
        ...


class GrpcTransport:
    """A Transport over gRPC, for any number of threads, and for processes forked from this one."""

    def __init__(self, settings: Settings, counters: Counters) -> None:
        self._settings = settings
        self._counters = counters
        self._begin()
        fork.remember(self)

    def _begin(self) -> None:
        self._opening = threading.Lock()
        self._connections: ConnectionPool | None = None
        self._worker_discovery = WorkerDiscovery()
        self._retries = Retries(self._settings.retries, self._settings.wait_for_ready, self._counters)
        self._turns = threading.BoundedSemaphore(MAX_CALLS_IN_FLIGHT)
        self._closed = threading.Event()

    def after_fork(self) -> None:
        """See fork.Forked."""
        if self._connections is not None:
            fork.leave_alone(self._connections)
        closed = self._closed.is_set()
        self._counters.reset()
        self._begin()
        if closed:
            self._closed.set()

    def call(
        self,
        method: str,
        request: bytes,
        timeout: float | None,
        cancellation: Cancellation | None = None,
        remainder: Remainder | None = None,
    ) -> bytes:
        """See Transport."""
        check_size(request, self._settings)
        connections = self._open()
        deadline = None if timeout is None else time.monotonic() + timeout
        self._take_turn(timeout)
        try:
            self._retries.called()
            answer = self._try(connections, method, request, timeout, deadline, cancellation, remainder)
        finally:
            self._turns.release()
        self._retries.answered()
        return answer

    def stream(self, method: str, requests: Iterable[bytes], timeout: float | None) -> Iterator[bytes]:
        """Send messages as the server takes them, and give its answers as they come.

        Leaving the iterator ends the stream. A stream that fails is not tried again: who sends knows what was answered.

        Args:
            method: the path of a method that takes and gives streams.
            requests: the encoded messages; read in a thread of gRPC's, no further ahead than the server takes them.
            timeout: seconds until the stream must have ended; None for never.

        Raises:
            PoolError: it failed; which of its kinds says why.
        """
        connections = self._open()
        self._retries.called()
        with Lease(connections, None, self._close_connection) as connection, fork.inside():
            call = connection.channel.stream_stream(method)(
                iter(requests), timeout=timeout, metadata=self._settings.metadata or None
            )
            try:
                for answer in call:
                    connections.answered(connection)
                    yield answer
            except grpc.RpcError as error:
                if self._closed.is_set():
                    raise closed_within() from None
                raise failure_of_rpc(cast(grpc.Call, error), self._settings, timeout, 0).error from None
            finally:
                call.cancel()
        self._retries.answered()

    def close(self) -> None:
        """See Transport."""
        self._closed.set()
        with self._opening:
            connections = self._connections
        if connections is None:
            return
        for connection in connections.end():
            self._close_connection(connection)
        self._worker_discovery.end()
        # What it opened meanwhile.
        for connection in connections.end():
            self._close_connection(connection)

    def _open(self) -> ConnectionPool:
        if self._closed.is_set():
            raise closed_before()
        if self._connections is None:
            with self._opening:
                if self._connections is None:
                    with fork.opening(lambda: check_alive(self._settings)):
                        self._connections = first_connections(
                            self._settings, self._counters, lambda address: open_connection(self._settings, address)
                        )
        return self._connections

    def _open_connection(self, address: str) -> Connection:
        with fork.inside():
            return open_connection(self._settings, address)

    def _close_connection(self, connection: Connection) -> None:
        with fork.inside():
            connection.channel.close()

    def _take_turn(self, timeout: float | None) -> None:
        if not self._turns.acquire(blocking=False) and not self._turns.acquire(timeout=timeout):
            raise late(self._settings, timeout)

    def _try(
        self,
        connections: ConnectionPool,
        method: str,
        request: bytes,
        timeout: float | None,
        deadline: float | None,
        cancellation: Cancellation | None,
        remainder: Remainder | None,
    ) -> bytes:
        attempts: Attempts | None = None
        failed: Connection | None = None
        while True:
            survey = connections.survey(self._open_connection)
            if survey is not None:
                self._worker_discovery.start(survey, self._call, self._close_connection)
            with Lease(connections, failed, self._close_connection) as connection, fork.inside():
                try:
                    answer = self._send(connections, connection, method, request, deadline, cancellation)
                except grpc.RpcError as error:
                    if self._closed.is_set():
                        raise closed_within() from None
                    # What a blocking call raises is also the call, with its status.
                    failure = failure_of_rpc(cast(grpc.Call, error), self._settings, timeout, len(request))
                except ValueError:
                    # gRPC's answer to a call that lost the race against close().
                    if not self._closed.is_set():
                        raise
                    raise closed_before() from None
                else:
                    connections.answered(connection)
                    rest = None if remainder is None else remainder(answer)
                    if rest is None:
                        return answer
                    request, failure = rest
            failed = connection
            attempts = attempts or Attempts(self._retries, deadline, once=method == HEALTH)
            elsewhere = failure.is_lost and connections.lost(connection)
            self._pause(attempts.pause_after(failure, elsewhere=elsewhere), cancellation)

    def _send(
        self,
        connections: ConnectionPool,
        connection: Connection,
        method: str,
        request: bytes,
        deadline: float | None,
        cancellation: Cancellation | None,
    ) -> bytes:
        metadata = self._settings.metadata or None
        if cancellation is None and self._settings.hedge_after is None:
            return cast(bytes, connection.methods[method](request, timeout=left_of(deadline), metadata=metadata))
        if cancellation is not None:
            cancellation.check()
        call = connection.methods[method].future(request, timeout=left_of(deadline), metadata=metadata)
        if cancellation is None:
            return self._hedged(connections, connection, call, method, request, deadline)
        with cancellation.ending(call.cancel):
            try:
                if self._settings.hedge_after is None:
                    return cast(bytes, call.result())
                return self._hedged(connections, connection, call, method, request, deadline)
            except grpc.FutureCancelledError:
                raise Cancelled from None

    def _hedged(
        self,
        connections: ConnectionPool,
        connection: Connection,
        first: Any,
        method: str,
        request: bytes,
        deadline: float | None,
    ) -> bytes:
        """The answer of the first call, or of a second one where the first takes long: whichever comes first."""
        try:
            return cast(bytes, first.result(self._settings.hedge_after))
        except grpc.FutureTimeoutError:
            if method == HEALTH or not self._retries.spend():
                return cast(bytes, first.result())
        self._counters.add("hedges")
        with Lease(connections, connection, self._close_connection) as other:
            second = other.methods[method].future(
                request, timeout=left_of(deadline), metadata=self._settings.metadata or None
            )
            ended: SimpleQueue[Any] = SimpleQueue()
            for call in (first, second):
                call.add_done_callback(ended.put)
            try:
                winner = ended.get()
                if winner.code() is not grpc.StatusCode.OK and not first.cancelled():
                    winner = ended.get()
                if winner is second:
                    self._counters.add("hedges_won")
                return cast(bytes, winner.result())
            finally:
                first.cancel()
                second.cancel()

    def _pause(self, seconds: float, cancellation: Cancellation | None) -> None:
        if cancellation is not None:
            cancellation.sleep(seconds)
        if self._closed.wait(0 if cancellation is not None else seconds):
            raise closed_within()

    def _call(self, connection: Connection) -> Place | None:
        if self._closed.is_set():
            return None
        try:
            with fork.inside():
                metadata = self._settings.metadata or None
                return read_place(connection.methods[SERVER_INFO](INFO_REQUEST, timeout=ASK_SECONDS, metadata=metadata))
        except grpc.RpcError as error:
            return place_of_refusal(cast(grpc.Call, error))
        except ValueError:
            # The client was closed meanwhile.
            return None
