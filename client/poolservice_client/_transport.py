"""How bytes reach a server and come back."""

import threading
import time
from collections.abc import Iterable, Iterator
from queue import SimpleQueue
from typing import Any, Protocol, cast

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
from poolservice_client._cancellation import Cancellation, Cancelled
from poolservice_client._channels import HEALTH, POOL, POOL_BATCH, POOL_STREAM, SERVER_INFO, open_lane, sign_of_life
from poolservice_client._lanes import Lane, Lanes, Place, Taken
from poolservice_client._retry import Retries, Trials
from poolservice_client._server_info import INFO_REQUEST, read_place
from poolservice_client._settings import Settings
from poolservice_client._stats import Counters
from poolservice_client._surveyor import Surveyor

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
        self, method: str, request: bytes, timeout: float | None, cancellation: Cancellation | None = None
    ) -> bytes:
        """Send a message to a method and wait for its answer, trying again where that may help.

        Args:
            method: the path, "/package.Service/Method".
            request: the encoded message.
            timeout: seconds until the answer must be there; None waits for ever.
            cancellation: what may end the call from another thread.

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
        _fork.remember(self)

    def _begin(self) -> None:
        self._opening = threading.Lock()
        self._lanes: Lanes | None = None
        self._surveyor = Surveyor()
        self._retries = Retries(self._settings.retries, self._settings.wait_for_ready, self._counters)
        self._turns = threading.BoundedSemaphore(MAX_CALLS_IN_FLIGHT)
        self._closed = threading.Event()

    def after_fork(self) -> None:
        """See _fork.Forked."""
        if self._lanes is not None:
            _fork.leave_alone(self._lanes)
        closed = self._closed.is_set()
        self._counters.reset()
        self._begin()
        if closed:
            self._closed.set()

    def call(
        self, method: str, request: bytes, timeout: float | None, cancellation: Cancellation | None = None
    ) -> bytes:
        """See Transport."""
        check_size(request, self._settings)
        lanes = self._open()
        deadline = None if timeout is None else time.monotonic() + timeout
        self._take_turn(timeout)
        try:
            self._retries.called()
            answer = self._try(lanes, method, request, timeout, deadline, cancellation)
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
        lanes = self._open()
        self._retries.called()
        with Taken(lanes, None, self._close_lane) as lane, _fork.inside():
            call = lane.channel.stream_stream(method)(
                iter(requests), timeout=timeout, metadata=self._settings.metadata or None
            )
            try:
                for answer in call:
                    lanes.answered(lane)
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
            lanes = self._lanes
        if lanes is None:
            return
        for lane in lanes.end():
            self._close_lane(lane)
        self._surveyor.end()
        # What it opened meanwhile.
        for lane in lanes.end():
            self._close_lane(lane)

    def _open(self) -> Lanes:
        if self._closed.is_set():
            raise closed_before()
        if self._lanes is None:
            with self._opening:
                if self._lanes is None:
                    with _fork.opening(lambda: sign_of_life(self._settings)):
                        self._lanes = first_lanes(
                            self._settings, self._counters, lambda address: open_lane(self._settings, address)
                        )
        return self._lanes

    def _open_lane(self, address: str) -> Lane:
        with _fork.inside():
            return open_lane(self._settings, address)

    def _close_lane(self, lane: Lane) -> None:
        with _fork.inside():
            lane.channel.close()

    def _take_turn(self, timeout: float | None) -> None:
        if not self._turns.acquire(blocking=False) and not self._turns.acquire(timeout=timeout):
            raise late(self._settings, timeout)

    def _try(
        self,
        lanes: Lanes,
        method: str,
        request: bytes,
        timeout: float | None,
        deadline: float | None,
        cancellation: Cancellation | None,
    ) -> bytes:
        trials: Trials | None = None
        failed: Lane | None = None
        while True:
            survey = lanes.survey(self._open_lane)
            if survey is not None:
                self._surveyor.start(survey, self._ask, self._close_lane)
            with Taken(lanes, failed, self._close_lane) as lane, _fork.inside():
                try:
                    answer = self._send(lanes, lane, method, request, deadline, cancellation)
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
                    lanes.answered(lane)
                    return answer
            failed = lane
            trials = trials or Trials(self._retries, deadline, once=method == HEALTH)
            elsewhere = failure.is_lost and lanes.lost(lane)
            self._pause(trials.pause_after(failure, elsewhere=elsewhere), cancellation)

    def _send(
        self,
        lanes: Lanes,
        lane: Lane,
        method: str,
        request: bytes,
        deadline: float | None,
        cancellation: Cancellation | None,
    ) -> bytes:
        metadata = self._settings.metadata or None
        if cancellation is None and self._settings.hedge_after is None:
            return cast(bytes, lane.methods[method](request, timeout=left_of(deadline), metadata=metadata))
        if cancellation is not None:
            cancellation.check()
        call = lane.methods[method].future(request, timeout=left_of(deadline), metadata=metadata)
        if cancellation is None:
            return self._hedged(lanes, lane, call, method, request, deadline)
        with cancellation.ending(call.cancel):
            try:
                if self._settings.hedge_after is None:
                    return cast(bytes, call.result())
                return self._hedged(lanes, lane, call, method, request, deadline)
            except grpc.FutureCancelledError:
                raise Cancelled from None

    def _hedged(
        self, lanes: Lanes, lane: Lane, first: Any, method: str, request: bytes, deadline: float | None
    ) -> bytes:
        """The answer of the first call, or of a second one where the first takes long: whichever comes first."""
        try:
            return cast(bytes, first.result(self._settings.hedge_after))
        except grpc.FutureTimeoutError:
            if method == HEALTH or not self._retries.spend():
                return cast(bytes, first.result())
        self._counters.add("hedges")
        with Taken(lanes, lane, self._close_lane) as other:
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

    def _ask(self, lane: Lane) -> Place | None:
        if self._closed.is_set():
            return None
        try:
            with _fork.inside():
                metadata = self._settings.metadata or None
                return read_place(lane.methods[SERVER_INFO](INFO_REQUEST, timeout=ASK_SECONDS, metadata=metadata))
        except grpc.RpcError as error:
            return place_of_refusal(cast(grpc.Call, error))
        except ValueError:
            # The client was closed meanwhile.
            return None
