"""Coalescing the calls of asyncio tasks: calls made while messages are in flight wait and share the next one."""

import asyncio
import math
import time

from poolservice_client._coalescing.aio_message import MessageInFlight, PendingCall
from poolservice_client._coalescing.limits import MessageLimits
from poolservice_client._coalescing.queue import CallQueue
from poolservice_client._coalescing.request import CoalescedRequest
from poolservice_client._stats import Counters
from poolservice_client._transport import fork
from poolservice_client._transport.aio import AsyncTransport
from poolservice_client._transport.methods import POOL
from poolservice_client.errors import DeadlineExceeded

# A timer may fire slightly early. The minimum delay prevents a busy loop until then.
_MIN_DELAY_SECONDS = 0.001


class AsyncCoalescer:
    """Sends the calls of the tasks of one event loop in few messages. CallQueue decides when each message is sent.

    The first call of an idle coalescer is sent in its own task. Calls that arrive while a message is in flight wait,
    and a task of the coalescer sends them, so that cancelling one caller does not cancel the others.

    Args:
        transport: sends the messages.
        counters: count the coalesced calls and messages.
        address: the server's name in errors.
        message_limits: the size of a full message.
    """

    def __init__(
        self, transport: AsyncTransport, counters: Counters, address: str, message_limits: MessageLimits
    ) -> None:
        self._transport = transport
        self._counters = counters
        self._address = address
        self._message_limits = message_limits
        self._reset()
        fork.register(self)

    def _reset(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queue: CallQueue[PendingCall] = CallQueue(self._message_limits, self._counters)
        self._messages: set[MessageInFlight] = set()
        self._due_timer: asyncio.TimerHandle | None = None
        self._deadline_timer: asyncio.TimerHandle | None = None
        self._next_deadline = math.inf
        self._next_check = math.inf

    def after_fork(self) -> None:
        """See fork.ForkAware. The parent's event loop and its tasks do not run in this process."""
        fork.keep_inherited(self._messages, self._queue)
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
        elif self._queue.is_free(call.created):
            self._queue.count_sent(call.created)
            try:
                call.set_response(await self._transport.call(POOL, call.request, call.timeout))
            finally:
                self._queue.count_ended()
                self._send_due(loop)
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
        for timer in (self._due_timer, self._deadline_timer):
            if timer is not None:
                timer.cancel()
        self._due_timer = self._deadline_timer = None
        self._next_deadline = math.inf

    def _join(self, call: PendingCall, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        """Add the call to the waiting ones. The future is done when it is settled or must be sent uncoalesced."""
        call.ended = ended = loop.create_future()
        if self._queue.append(call) or self._due_timer is None:
            self._send_due(loop)
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

    def _send_due(self, loop: asyncio.AbstractEventLoop) -> None:
        """Send the waiting calls that are due, and check again when the others are."""
        queue = self._queue
        if not queue.calls:
            return
        now = time.monotonic()
        while queue.is_due(now):
            self._send_next(now, loop)
        if queue.calls:
            self._schedule_check(queue.due_at, now, loop)

    def _schedule_check(self, due_at: float, now: float, loop: asyncio.AbstractEventLoop) -> None:
        delay = max(due_at - now, _MIN_DELAY_SECONDS)
        if self._due_timer is not None:
            if self._next_check <= now + delay:
                return
            self._due_timer.cancel()
        self._next_check = now + delay
        self._due_timer = loop.call_later(delay, self._check_due, loop)

    def _check_due(self, loop: asyncio.AbstractEventLoop) -> None:
        self._due_timer = None
        self._send_due(loop)

    def _send_next(self, now: float, loop: asyncio.AbstractEventLoop) -> None:
        """Start a task that sends the first of the waiting calls."""
        message = MessageInFlight(self._queue.take_message())
        self._queue.count_sent(now)
        for call in message.calls:
            call.message = message
        self._messages.add(message)
        message.task = loop.create_task(self._send_message(message, loop))
        # A callback, because a task that is cancelled before its first step runs none of its own code.
        message.task.add_done_callback(lambda _: self._end(message, loop))

    async def _send_message(self, message: MessageInFlight, loop: asyncio.AbstractEventLoop) -> None:
        request = CoalescedRequest(message.calls)
        if len(message.calls) > 1:
            self._counters.add("coalesced_messages")
            self._counters.add("coalesced_calls", len(message.calls))
        try:
            response = await self._transport.call(
                request.method, request.message, message.timeout, traces=request.traces
            )
        except Exception as error:  # noqa: BLE001 - the request decides what it means for each call
            request.set_error(error)
            self._count_response(message, loop)
        else:
            self._count_response(message, loop)
            request.set_response(response)
        for call in message.calls:
            call.wake()
        message.calls = []

    def _count_response(self, message: MessageInFlight, loop: asyncio.AbstractEventLoop) -> None:
        """Send the next message, if it is full, before the calls of this one are settled, to keep the server busy."""
        message.has_response = True
        self._queue.count_arriving()
        self._send_due(loop)

    def _end(self, message: MessageInFlight, loop: asyncio.AbstractEventLoop) -> None:
        """Send what is due after a message. Its callers have made their next calls by now, so these are included."""
        self._messages.discard(message)
        if message.has_response:
            self._queue.end_arriving()
        else:
            self._queue.count_ended()
        for call in message.calls:
            call.wake()
        if message.task is not None and message.task.cancelled() and not message.is_abandoned:
            # No caller cancelled it: the event loop is shutting down, or someone cancels all tasks. No further task is
            # started then.
            self._release_waiting()
        else:
            self._send_due(loop)

    def _release_waiting(self) -> None:
        """Let each waiting call be sent uncoalesced, in its caller's task."""
        while self._queue.calls:
            call = self._queue.calls[0]
            self._queue.remove(call)
            call.wake()

    def _remove(self, call: PendingCall) -> None:
        """Forget a call that nobody awaits any more, so that its payload can be freed before its message ends."""
        if call.message is not None:
            call.message.remove(call)
            call.message = None
        elif call in self._queue.calls:
            self._queue.remove(call)
        call.data = b""

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
        for call in [*self._queue.calls, *(call for message in self._messages for call in message.calls)]:
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
