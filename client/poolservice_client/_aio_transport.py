"""How bytes reach a server and come back, for asyncio."""

# ruff: noqa: ASYNC109 - the time-out travels with the call, as its gRPC deadline

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, Protocol

import grpc

from poolservice_client import _fork
from poolservice_client._calls import (
    ASK_SECONDS,
    MAX_CALLS_IN_FLIGHT,
    check_size,
    closed_before,
    closed_within,
    failure_of_rpc,
    first_lanes,
    late,
    left_of,
    place_of_refusal,
)
from poolservice_client._channels import HEALTH, SERVER_INFO, open_aio_lane, sign_of_life
from poolservice_client._lanes import Ask, Lane, Lanes, Place, Taken
from poolservice_client._retry import Retries, Trials
from poolservice_client._server_info import INFO_REQUEST, read_place
from poolservice_client._settings import Settings
from poolservice_client._stats import Counters
from poolservice_client.errors import PoolError


class AsyncTransport(Protocol):
    """The seam between an AsyncPoolClient and the network. See Transport."""

    async def call(self, method: str, request: bytes, timeout: float | None) -> bytes:
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
        _fork.remember(self)

    def _begin(self) -> None:
        self._retries = Retries(self._settings.retries, self._settings.wait_for_ready, self._counters)
        self._turns = asyncio.Semaphore(MAX_CALLS_IN_FLIGHT)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lanes: Lanes | None = None
        self._surveyor: asyncio.Task[None] | None = None
        self._ends: set[asyncio.Task[None]] = set()

    def after_fork(self) -> None:
        """See _fork.Forked."""
        _fork.leave_alone(self._lanes, self._loop, self._surveyor)
        self._counters.reset()
        self._begin()

    async def call(self, method: str, request: bytes, timeout: float | None) -> bytes:
        """See AsyncTransport."""
        check_size(request, self._settings)
        lanes = self._open()
        deadline = None if timeout is None else time.monotonic() + timeout
        await self._take_turn(timeout)
        try:
            self._retries.called()
            answer = await self._try(lanes, method, request, timeout, deadline)
        except asyncio.CancelledError:
            self._check_cancelled()
            raise
        finally:
            self._turns.release()
        self._retries.answered()
        return answer

    async def stream(self, method: str, requests: AsyncIterator[bytes], timeout: float | None) -> AsyncIterator[bytes]:
        """Send messages as the server takes them, and give its answers as they come; see GrpcTransport."""
        lanes = self._open()
        self._retries.called()
        with Taken(lanes, None, self._close_lane) as lane:
            call = lane.channel.stream_stream(method)(
                requests, timeout=timeout, metadata=self._settings.metadata or None
            )
            try:
                async for answer in call:
                    lanes.answered(lane)
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
        if self._surveyor is not None:
            self._surveyor.cancel()
            await asyncio.wait([self._surveyor])
        for lane in self._lanes.end() if self._lanes else ():
            await lane.channel.close()
        if self._ends:
            await asyncio.wait(self._ends)

    def _check_cancelled(self) -> None:
        # Closing a channel cancels its calls; whoever awaits one was not cancelled.
        task = asyncio.current_task()
        if self._closed and (task is None or not task.cancelling()):
            raise closed_within() from None

    def _open(self) -> Lanes:
        if self._closed:
            raise closed_before()
        if self._lanes is None:
            with _fork.opening(lambda: sign_of_life(self._settings), aio=True):
                self._lanes = first_lanes(self._settings, self._counters, self._open_lane)
            self._loop = asyncio.get_running_loop()
        elif self._loop is not asyncio.get_running_loop():
            raise PoolError("this client belongs to another event loop; make one for each loop")
        return self._lanes

    def _open_lane(self, address: str) -> Lane:
        return open_aio_lane(self._settings, address)

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
        self, lanes: Lanes, method: str, request: bytes, timeout: float | None, deadline: float | None
    ) -> bytes:
        trials: Trials | None = None
        failed: Lane | None = None
        while True:
            self._start_survey(lanes)
            with Taken(lanes, failed, self._close_lane) as lane:
                try:
                    answer = await self._send(lanes, lane, method, request, deadline)
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
                    lanes.answered(lane)
                    return answer
            failed = lane
            trials = trials or Trials(self._retries, deadline, once=method == HEALTH)
            elsewhere = failure.is_lost and lanes.lost(lane)
            await asyncio.sleep(trials.pause_after(failure, elsewhere=elsewhere))
            if self._closed:
                raise closed_within()

    async def _send(self, lanes: Lanes, lane: Lane, method: str, request: bytes, deadline: float | None) -> bytes:
        first = self._start(lane, method, request, deadline)
        if self._settings.hedge_after is None or method == HEALTH:
            answer: bytes = await first
            return answer
        return await self._hedged(lanes, lane, first, method, request, deadline)

    def _start(self, lane: Lane, method: str, request: bytes, deadline: float | None) -> Any:
        return lane.methods[method](request, timeout=left_of(deadline), metadata=self._settings.metadata or None)

    async def _hedged(
        self, lanes: Lanes, lane: Lane, call: Any, method: str, request: bytes, deadline: float | None
    ) -> bytes:
        """The answer of the first call, or of a second one where the first takes long: whichever comes first."""
        first = asyncio.ensure_future(_answer(call))
        tries = {first}
        try:
            await asyncio.wait(tries, timeout=self._settings.hedge_after)
            if first.done() or not self._retries.spend():
                return await first
            self._counters.add("hedges")
            with Taken(lanes, lane, self._close_lane) as other:
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

    def _close_lane(self, lane: Lane) -> None:
        end = asyncio.ensure_future(lane.channel.close())
        self._ends.add(end)
        end.add_done_callback(self._ends.discard)

    def _start_survey(self, lanes: Lanes) -> None:
        survey = lanes.survey(self._open_lane)
        if survey is not None:
            self._surveyor = asyncio.create_task(self._survey(lanes, survey))

    async def _survey(self, lanes: Lanes, survey: Any) -> None:
        place: Place | None = None
        asked: Lane | None = None
        try:
            while True:
                step = survey.send(place)
                if isinstance(step, Ask):
                    asked = step.lane
                    place = await self._ask(asked)
                else:
                    await step.lane.channel.close()
        except StopIteration:
            return
        finally:
            survey.close()
            if asked is not None and asked not in lanes.all():
                await asked.channel.close()

    async def _ask(self, lane: Lane) -> Place | None:
        try:
            metadata = self._settings.metadata or None
            return read_place(await lane.methods[SERVER_INFO](INFO_REQUEST, timeout=ASK_SECONDS, metadata=metadata))
        except grpc.aio.AioRpcError as error:
            return place_of_refusal(error)


async def _answer(call: Any) -> bytes:
    """A call as a coroutine, which a task can be made of."""
    answer: bytes = await call
    return answer
