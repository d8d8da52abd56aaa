"""How bytes reach a server and come back, for asyncio."""

# ruff: noqa: ASYNC109 - the time-out travels with the call, as its gRPC deadline

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, Protocol

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
from poolservice_client._transport.channels import HEALTH, SERVER_INFO, check_alive, open_aio_connection
from poolservice_client._transport.connections import Ask, Connection, ConnectionPool, Lease, Place
from poolservice_client._transport.retry import Attempts, Remainder, Retries
from poolservice_client.errors import PoolError


class AsyncTransport(Protocol):
    """The seam between an AsyncPoolClient and the network. See Transport."""

    async def call(
        self, method: str, request: bytes, timeout: float | None, remainder: Remainder | None = None
    ) -> bytes:
        """See Transport. Cancelling it cancels the call on the server too."""
        ...

    async def close(self) -> None:
        """See Transport."""
        ...


class AsyncGrpcTransport:
    """An AsyncTransport over gRPC, for any number of tasks of one event loop.

    The channels are made with the first call, so that a client can be made before its event loop runs.
    """

    def __init__(self, settings: Settings, counters: Counters) -> None:
        self._settings = settings
        self._counters = counters
        self._closed = False
        self._begin()
        fork.remember(self)

    def _begin(self) -> None:
        self._retries = Retries(self._settings.retries, self._settings.wait_for_ready, self._counters)
        self._turns = asyncio.Semaphore(MAX_CALLS_IN_FLIGHT)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connections: ConnectionPool | None = None
        self._worker_discovery: asyncio.Task[None] | None = None
        self._ends: set[asyncio.Task[None]] = set()

    def after_fork(self) -> None:
        """See fork.Forked."""
        fork.leave_alone(self._connections, self._loop, self._worker_discovery)
        self._counters.reset()
        self._begin()

    async def call(
        self, method: str, request: bytes, timeout: float | None, remainder: Remainder | None = None
    ) -> bytes:
        """See AsyncTransport."""
        check_size(request, self._settings)
        connections = self._open()
        deadline = None if timeout is None else time.monotonic() + timeout
        await self._take_turn(timeout)
        try:
            self._retries.called()
            answer = await self._try(connections, method, request, timeout, deadline, remainder)
        except asyncio.CancelledError:
            self._check_cancelled()
            raise
        finally:
            self._turns.release()
        self._retries.answered()
        return answer

    async def stream(self, method: str, requests: AsyncIterator[bytes], timeout: float | None) -> AsyncIterator[bytes]:
        """Send messages as the server takes them, and give its answers as they come; see GrpcTransport."""
        connections = self._open()
        self._retries.called()
        with Lease(connections, None, self._close_connection) as connection:
            call = connection.channel.stream_stream(method)(
                requests, timeout=timeout, metadata=self._settings.metadata or None
            )
            try:
                async for answer in call:
                    connections.answered(connection)
                    yield answer
            except grpc.aio.AioRpcError as error:
                if self._closed:
                    raise closed_within() from None
                raise failure_of_rpc(error, self._settings, timeout, 0).error from None
            except asyncio.CancelledError:
                self._check_cancelled()
                raise
            finally:
                call.cancel()
        self._retries.answered()

    async def close(self) -> None:
        """See Transport."""
        self._closed = True
        if self._worker_discovery is not None:
            self._worker_discovery.cancel()
            await asyncio.wait([self._worker_discovery])
        for connection in self._connections.end() if self._connections else ():
            await connection.channel.close()
        if self._ends:
            await asyncio.wait(self._ends)

    def _check_cancelled(self) -> None:
        # Closing a channel cancels its calls; whoever awaits one was not cancelled.
        task = asyncio.current_task()
        if self._closed and (task is None or not task.cancelling()):
            raise closed_within() from None

    def _open(self) -> ConnectionPool:
        if self._closed:
            raise closed_before()
        if self._connections is None:
            with fork.opening(lambda: check_alive(self._settings), aio=True):
                self._connections = first_connections(self._settings, self._counters, self._open_connection)
            self._loop = asyncio.get_running_loop()
        elif self._loop is not asyncio.get_running_loop():
            raise PoolError("this client belongs to another event loop; make one for each loop")
        return self._connections

    def _open_connection(self, address: str) -> Connection:
        return open_aio_connection(self._settings, address)

    async def _take_turn(self, timeout: float | None) -> None:
        if not self._turns.locked():
            await self._turns.acquire()
            return
        try:
            async with asyncio.timeout(timeout):
                await self._turns.acquire()
        except TimeoutError:
            raise late(self._settings, timeout) from None

    async def _try(
        self,
        connections: ConnectionPool,
        method: str,
        request: bytes,
        timeout: float | None,
        deadline: float | None,
        remainder: Remainder | None,
    ) -> bytes:
        attempts: Attempts | None = None
        failed: Connection | None = None
        while True:
            self._start_survey(connections)
            with Lease(connections, failed, self._close_connection) as connection:
                try:
                    answer = await self._send(connections, connection, method, request, deadline)
                except grpc.aio.AioRpcError as error:
                    if self._closed:
                        raise closed_within() from None
                    failure = failure_of_rpc(error, self._settings, timeout, len(request))
                except grpc.aio.UsageError:
                    # gRPC's answer to a call that lost the race against close().
                    if not self._closed:
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
            await asyncio.sleep(attempts.pause_after(failure, elsewhere=elsewhere))
            if self._closed:
                raise closed_within()

    async def _send(
        self, connections: ConnectionPool, connection: Connection, method: str, request: bytes, deadline: float | None
    ) -> bytes:
        first = self._start(connection, method, request, deadline)
        if self._settings.hedge_after is None or method == HEALTH:
            answer: bytes = await first
            return answer
        return await self._hedged(connections, connection, first, method, request, deadline)

    def _start(self, connection: Connection, method: str, request: bytes, deadline: float | None) -> Any:
        return connection.methods[method](request, timeout=left_of(deadline), metadata=self._settings.metadata or None)

    async def _hedged(
        self,
        connections: ConnectionPool,
        connection: Connection,
        call: Any,
        method: str,
        request: bytes,
        deadline: float | None,
    ) -> bytes:
        """The answer of the first call, or of a second one where the first takes long: whichever comes first."""
        first = asyncio.ensure_future(_answer(call))
        tries = {first}
        try:
            await asyncio.wait(tries, timeout=self._settings.hedge_after)
            if first.done() or not self._retries.spend():
                return await first
            self._counters.add("hedges")
            with Lease(connections, connection, self._close_connection) as other:
                second = asyncio.ensure_future(_answer(self._start(other, method, request, deadline)))
                tries.add(second)
                done, others = await asyncio.wait(tries, return_when=asyncio.FIRST_COMPLETED)
                winner = done.pop()
                if others and winner.exception() is not None:
                    (winner,) = others
                answer = await winner
                if winner is second:
                    self._counters.add("hedges_won")
                return answer
        finally:
            for one in tries:
                one.cancel()
            await asyncio.gather(*tries, return_exceptions=True)

    def _close_connection(self, connection: Connection) -> None:
        end = asyncio.ensure_future(connection.channel.close())
        self._ends.add(end)
        end.add_done_callback(self._ends.discard)

    def _start_survey(self, connections: ConnectionPool) -> None:
        survey = connections.survey(self._open_connection)
        if survey is not None:
            self._worker_discovery = asyncio.create_task(self._survey(connections, survey))

    async def _survey(self, connections: ConnectionPool, survey: Any) -> None:
        place: Place | None = None
        asked: Connection | None = None
        try:
            while True:
                step = survey.send(place)
                if isinstance(step, Ask):
                    asked = step.connection
                    place = await self._call(asked)
                else:
                    await step.connection.channel.close()
        except StopIteration:
            return
        finally:
            survey.close()
            if asked is not None and asked not in connections.all():
                await asked.channel.close()

    async def _call(self, connection: Connection) -> Place | None:
        try:
            metadata = self._settings.metadata or None
            return read_place(
                await connection.methods[SERVER_INFO](INFO_REQUEST, timeout=ASK_SECONDS, metadata=metadata)
            )
        except grpc.aio.AioRpcError as error:
            return place_of_refusal(error)


async def _answer(call: Any) -> bytes:
    """A call as a coroutine, which a task can be made of."""
    answer: bytes = await call
    return answer
