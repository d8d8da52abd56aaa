"""The calls in progress: who calls, how long each has waited for its caller, and what it holds until it ends.

A call waits for its caller twice: until the request has arrived completely, and until the response is sent. gRPC keeps
an incomplete message and an unread response for as long as the connection lives, so both waits have a limit here.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from math import inf

import structlog
from google.rpc import code_pb2, status_pb2

from poolservice_server.batcher import Draining, QuotaExceeded
from poolservice_server.core.unsent_responses import UnsentResponse
from poolservice_server.error_status import CallLimitReached

_log = structlog.get_logger(__name__)

# The longest interval between two checks of the calls.
_LONGEST_INTERVAL_SECONDS = 1.0

# A stream may be idle for this many times the limit of an incomplete message: gRPC does not say which of the two it is.
_IDLE_STREAM_FACTOR = 10

# The limit of an unread response while unread responses take much of the queue.
_SHORT_SECONDS = 5.0

_STOPPED = status_pb2.Status(
    code=code_pb2.UNAVAILABLE,
    message="the server is stopping and did not finish this call; send the request to another server",
)


class ActiveCall:
    """A call in progress. It ends with its task: when its response is sent, or when its caller has left.

    Attributes:
        caller: who calls.
        ended_with: the status with which the server ends the call before its time, or None.
        unsent: the responses that the call holds until it ends, if any.
    """

    __slots__ = ("_calls", "_task", "caller", "ended_with", "receiving_since", "sending_since", "unsent")

    def __init__(self, calls: "ActiveCalls", task: "asyncio.Task[object]", now: float, caller: str) -> None:
        self._calls = calls
        self._task = task
        self.receiving_since = now
        self.sending_since = inf
        self.caller = caller
        self.ended_with: status_pb2.Status | None = None
        self.unsent: list[UnsentResponse] | None = None

    def hold(self, response: UnsentResponse) -> None:
        """Hold a response until the call ends."""
        if self.unsent is None:
            self.unsent = []
        self.unsent.append(response)

    @property
    def is_sending(self) -> bool:
        """True while a response is being sent, and after one that could not be sent."""
        return self.sending_since != inf

    def received(self) -> None:
        """Stop waiting for a message."""
        self.receiving_since = inf

    def receiving_next(self) -> None:
        """Wait for the next message of a stream."""
        self.receiving_since = time.perf_counter() + self._calls.receive_timeout * (_IDLE_STREAM_FACTOR - 1)

    def sending(self) -> None:
        """Start waiting until a response is sent."""
        self.sending_since = time.perf_counter()

    def sent(self) -> None:
        """Stop waiting until a response is sent; the call goes on."""
        self.sending_since = inf

    def end(self, status: status_pb2.Status) -> None:
        """End the call: cancel its task, which reports `status` if the caller can still receive it."""
        self.ended_with = status
        self._task.cancel()


class ActiveCalls:
    """The calls in progress of one server. Use it on the event loop only.

    Args:
        receive_timeout: seconds in which a request must arrive completely.
        send_timeout: seconds in which a caller must read a response.
        max_calls: largest number of calls in progress.
        caller_max_calls: largest number of calls in progress of one caller.
        is_short_of_memory: returns True if unread responses take much of the queue; callers then have less time.

    Attributes:
        refusals: the numbers of calls that were refused, by reason: calls, caller_calls or stopping.
    """

    def __init__(
        self,
        *,
        receive_timeout: float,
        send_timeout: float,
        max_calls: int,
        caller_max_calls: int,
        is_short_of_memory: Callable[[], bool],
    ) -> None:
        self.receive_timeout = receive_timeout
        self.refusals: Counter[str] = Counter()
        self._send_timeout = send_timeout
        self._max_calls = max_calls
        self._caller_max_calls = caller_max_calls
        self._is_short_of_memory = is_short_of_memory
        self._interval = min(receive_timeout / 4, send_timeout / 4, _LONGEST_INTERVAL_SECONDS)
        self._calls: dict[asyncio.Task[object], ActiveCall] = {}
        # The number of calls of each caller that has some.
        self._calls_of: dict[str, int] = {}
        self._timer_runs = False
        self._stopping = False
        self._ended = asyncio.Event()

    def start(self, source: object, now: float, caller: str) -> ActiveCall:
        """Add a call, and wait for its request.

        Args:
            source: the call's task, if its server calls `ended` for it; otherwise anything.
            now: time.perf_counter().
            caller: who calls.

        Raises:
            CallLimitReached: too many calls are in progress.
            QuotaExceeded: the caller has as many calls in progress as one caller may.
            Draining: the server is stopping.
        """
        if self._stopping:
            self.refusals["stopping"] += 1
            raise Draining
        if len(self._calls) >= self._max_calls:
            self.refusals["calls"] += 1
            raise CallLimitReached(self._max_calls)
        number = self._calls_of.get(caller, 0)
        if number >= self._caller_max_calls:
            self.refusals["caller_calls"] += 1
            raise QuotaExceeded(
                f"{number} calls in progress", str(self._caller_max_calls), "calls", CallLimitReached.retry_after
            )
        if isinstance(source, asyncio.Task):
            task: asyncio.Task[object] = source
        else:
            # The task ends when gRPC has sent the response, which is after the handler has returned it.
            task = _current_task()
            task.add_done_callback(self.ended)
        self._calls_of[caller] = number + 1
        call = self._calls[task] = ActiveCall(self, task, now, caller)
        if not self._timer_runs:
            self._timer_runs = True
            task.get_loop().call_later(self._interval, self._end_overdue_calls)
        return call

    async def stop(self, grace_period: float) -> None:
        """Refuse new calls, end those whose request is incomplete, and wait for the others.

        Calls that are not done after `grace_period` seconds end with UNAVAILABLE.
        """
        self._stopping = True
        for call in list(self._calls.values()):
            if call.receiving_since != inf and not call.is_sending:
                call.end(_STOPPED)
        try:
            async with asyncio.timeout(grace_period):
                await self._wait_until_ended()
        except TimeoutError:
            for call in list(self._calls.values()):
                call.end(_STOPPED)

    async def _wait_until_ended(self) -> None:
        while self._calls:
            self._ended.clear()
            await self._ended.wait()

    def ended(self, task: "asyncio.Task[object]") -> None:
        """Remove the call of a task, if it is one of these calls, and release what it holds."""
        call = self._calls.pop(task, None)
        if call is not None:
            number = self._calls_of[call.caller]
            if number > 1:
                self._calls_of[call.caller] = number - 1
            else:
                del self._calls_of[call.caller]
            if call.unsent is not None:
                for response in call.unsent:
                    response.release()
        if self._stopping and not self._calls:
            self._ended.set()

    def _end_overdue_calls(self) -> None:
        now = time.perf_counter()
        receiving_since = now - self.receive_timeout
        send_timeout = min(self._send_timeout, _SHORT_SECONDS) if self._is_short_of_memory() else self._send_timeout
        sending_since = now - send_timeout
        for call in list(self._calls.values()):
            if call.sending_since < sending_since:
                _log.warning("dropping an unread response", caller=call.caller, seconds=send_timeout)
                call.end(_unread(send_timeout))
            elif call.receiving_since < receiving_since and not call.is_sending:
                call.end(_incomplete(self.receive_timeout))
        self._timer_runs = bool(self._calls)
        if self._timer_runs:
            asyncio.get_running_loop().call_later(self._interval, self._end_overdue_calls)


def _current_task() -> "asyncio.Task[object]":
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("grpc.aio handles each call in a task")
    return task


def _incomplete(seconds: float) -> status_pb2.Status:
    return status_pb2.Status(
        code=code_pb2.DEADLINE_EXCEEDED,
        message=f"no complete request arrived within {seconds:g} s, or {seconds * _IDLE_STREAM_FACTOR:g} s after the "
        "last one of a stream; send it faster, or start the server with a longer --receive-timeout "
        "(POOLSERVICE_RECEIVE_TIMEOUT)",
    )


def _unread(seconds: float) -> status_pb2.Status:
    return status_pb2.Status(
        code=code_pb2.DEADLINE_EXCEEDED,
        message=f"the caller did not read a response within {seconds:g} s; read it faster, or start the server with a "
        "longer --send-timeout (POOLSERVICE_SEND_TIMEOUT)",
    )
