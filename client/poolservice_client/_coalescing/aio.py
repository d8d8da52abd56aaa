"""Coalescing the calls of asyncio tasks: calls made while a message is in flight wait and share the next one."""

import asyncio
import math
import time
from collections import deque

from poolservice.codec import Buffer
from poolservice_client._coalescing import limits
from poolservice_client._coalescing.call import BaseCall
from poolservice_client._coalescing.request import CoalescedRequest, take_message
from poolservice_client._request.query import PoolQuery
from poolservice_client._request.template import RequestTemplate
from poolservice_client._stats import Counters
from poolservice_client._transport import fork
from poolservice_client._transport.aio import AsyncTransport
from poolservice_client._transport.methods import POOL
from poolservice_client.errors import DeadlineExceeded


class PendingCall(BaseCall):
    """A call of a task.

    Attributes:
        ended: the future that its task awaits; None if it was sent immediately.
        message: the message that it is part of; None while it is waiting.
    """

    __slots__ = ("ended", "message")

    def __init__(
        self, query: PoolQuery, template: RequestTemplate, data: Buffer, nbytes: int, timeout: float | None
    ) -> None:
        BaseCall.__init__(self, query, template, data, nbytes, timeout)
        self.ended: asyncio.Future[None] | None = None
        self.message: _MessageInFlight | None = None

    def wake(self) -> None:
        """End the task's wait. It has no effect if the task does not wait."""
        if self.ended is not None and not self.ended.done():
            self.ended.set_result(None)


class _MessageInFlight:
    """A message in flight: its calls, without the cancelled ones, and the task that sends it."""

    def __init__(self, calls: list[PendingCall]) -> None:
        self.calls = calls
        self.task: asyncio.Task[None] | None = None

    @property
    def timeout(self) -> float | None:
        """The seconds until the last deadline of its calls; None if a call has none."""
        deadline = 0.0
        for call in self.calls:
            if call.deadline is None:
                return None
            deadline = max(deadline, call.deadline)
        return max(deadline - time.monotonic(), 0.0)

    def remove(self, call: PendingCall) -> None:
        """Remove a call that nobody awaits any more, and cancel the message if it was the last one."""
        if call in self.calls:
            self.calls.remove(call)
            if not self.calls and self.task is not None:
                self.task.cancel()


class AsyncCoalescer:
    """Sends the calls of the tasks of one event loop, one message at a time.

    The first call of an idle coalescer is sent in its own task. Calls that arrive while a message is in flight wait,
    and a task of the coalescer sends them, so that cancelling one caller does not cancel the others. They are sent
    when the response has arrived, when they fill a message, or after `MAX_WAIT_SECONDS`.

    Args:
        transport: sends the messages.
        counters: count the coalesced calls and messages.
        address: the server's name in errors.
    """

    def __init__(self, transport: AsyncTransport, counters: Counters, address: str) -> None:
        self._transport = transport
        self._counters = counters
        self._address = address
        self._reset()
        fork.register(self)

    def _reset(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: deque[PendingCall] = deque()
        # The call or the message whose response the waiting calls wait for.
        self._leader: PendingCall | _MessageInFlight | None = None
        self._messages: set[_MessageInFlight] = set()
        self._max_wait_timer: asyncio.TimerHandle | None = None
        self._deadline_timer: asyncio.TimerHandle | None = None
        self._next_deadline = math.inf

    def after_fork(self) -> None:
        """See fork.ForkAware. The parent's event loop and its tasks do not run in this process."""
        fork.keep_inherited(self._messages, self._waiting)
        self._reset()

    async def send(self, call: PendingCall) -> None:
        """Send the call, possibly together with others, and wait until it is settled.

        Raises:
            PoolError: the call failed.
        """
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        if self._loop is not loop:
            # The transport raises the error for another event loop.
            call.set_response(await self._transport.call(POOL, call.request, call.timeout))
        elif self._leader is None:
            self._leader = call
            try:
                call.set_response(await self._transport.call(POOL, call.request, call.timeout))
            finally:
                self._end_lead(call)
        else:
            try:
                await self._join(call, loop)
            except asyncio.CancelledError:
                self._remove(call)
                raise
            if not call.is_settled:
                await self._send_uncoalesced(call)

    async def close(self) -> None:
        """Wait for the coalescer's tasks to end, after the transport was closed."""
        while tasks := [message.task for message in self._messages if message.task is not None]:
            await asyncio.wait(tasks)
        for timer in (self._max_wait_timer, self._deadline_timer):
            if timer is not None:
                timer.cancel()
        self._max_wait_timer = self._deadline_timer = None
        self._next_deadline = math.inf

    def _join(self, call: PendingCall, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        """Add the call to the waiting ones. The future is done when it is settled or must be sent uncoalesced."""
        call.ended = ended = loop.create_future()
        self._waiting.append(call)
        if len(self._waiting) >= limits.MAX_CALLS:
            self._send_next(loop)
        elif self._max_wait_timer is None:
            self._max_wait_timer = loop.call_later(limits.MAX_WAIT_SECONDS, self._check_max_wait, loop)
        if call.deadline is not None and call.deadline < self._next_deadline:
            self._schedule_deadline_check(call.deadline, loop)
        return ended

    async def _send_uncoalesced(self, call: PendingCall) -> None:
        if call.remaining == 0:
            raise call.timeout_error(self._address)
        try:
            call.set_response(await self._transport.call(POOL, call.request, call.remaining))
        except DeadlineExceeded:
            # The transport's error names the remaining seconds, not the caller's timeout.
            raise call.timeout_error(self._address) from None

    def _end_lead(self, leader: PendingCall | _MessageInFlight) -> None:
        """Send the waiting calls, now that the leader's response has arrived."""
        if self._leader is leader:
            self._leader = None
            if self._waiting and self._loop is not None:
                self._send_next(self._loop)

    def _send_next(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start a task that sends the waiting calls."""
        message = _MessageInFlight(take_message(self._waiting))
        for call in message.calls:
            call.message = message
        self._leader = message
        self._messages.add(message)
        message.task = loop.create_task(self._send_message(message))
        message.task.add_done_callback(lambda _: self._messages.discard(message))

    async def _send_message(self, message: _MessageInFlight) -> None:
        try:
            request = CoalescedRequest(message.calls)
            if len(message.calls) > 1:
                self._counters.add("coalesced_messages")
                self._counters.add("coalesced_calls", len(message.calls))
            try:
                response = await self._transport.call(request.method, request.message, message.timeout)
            except Exception as error:  # noqa: BLE001 - the request decides what it means for each call
                request.set_error(error)
            else:
                request.set_response(response)
            for call in message.calls:
                call.wake()
            message.calls = []
            # Let the callers make their next calls, so that the next message includes these.
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            if message.calls:
                # No caller cancelled it: the event loop is shutting down, or someone cancels all tasks. No further
                # task is started then.
                self._release_waiting()
            raise
        finally:
            for call in message.calls:
                call.wake()
            self._end_lead(message)

    def _release_waiting(self) -> None:
        """Let each waiting call be sent uncoalesced, in its caller's task."""
        while self._waiting:
            self._waiting.popleft().wake()

    def _remove(self, call: PendingCall) -> None:
        if call.message is not None:
            call.message.remove(call)
        elif call in self._waiting:
            self._waiting.remove(call)

    def _check_max_wait(self, loop: asyncio.AbstractEventLoop) -> None:
        """Send the waiting calls if the first one has waited for the maximum time; check again later if any is left."""
        self._max_wait_timer = None
        if self._waiting and time.monotonic() - self._waiting[0].created >= limits.MAX_WAIT_SECONDS:
            self._send_next(loop)
        if self._waiting:
            remaining = limits.MAX_WAIT_SECONDS - (time.monotonic() - self._waiting[0].created)
            # A timer may fire slightly early. The minimum delay prevents a busy loop until then.
            self._max_wait_timer = loop.call_later(max(remaining, 0.001), self._check_max_wait, loop)

    def _schedule_deadline_check(self, deadline: float, loop: asyncio.AbstractEventLoop) -> None:
        """Check the deadlines at the given one, which is the earliest."""
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
        self._next_deadline = deadline
        self._deadline_timer = loop.call_later(max(deadline - time.monotonic(), 0.0), self._check_deadlines, loop)

    def _check_deadlines(self, loop: asyncio.AbstractEventLoop) -> None:
        """End the calls whose deadline has passed. One timer serves all calls, since few of them reach theirs."""
        self._deadline_timer, self._next_deadline = None, math.inf
        now = time.monotonic()
        earliest = math.inf
        for call in [*self._waiting, *(call for message in self._messages for call in message.calls)]:
            if call.deadline is None:
                continue
            if call.deadline <= now:
                self._remove(call)
                call.set_error(call.timeout_error(self._address))
                call.wake()
            else:
                earliest = min(earliest, call.deadline)
        if earliest < math.inf:
            self._schedule_deadline_check(earliest, loop)
