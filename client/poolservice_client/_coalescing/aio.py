"""A line that the tasks of an asyncio client share: while one call is under way, the next ones gather."""

import asyncio
import math
import time
from collections import deque

from poolservice.codec import Buffer
from poolservice_client._coalescing.blocking import PATIENCE_SECONDS
from poolservice_client._coalescing.message import MOST_CALLS, Call, CoalescedRequest, gather
from poolservice_client._request.template import RequestTemplate
from poolservice_client._stats import Counters
from poolservice_client._transport import fork
from poolservice_client._transport.aio import AsyncTransport
from poolservice_client._transport.blocking import POOL
from poolservice_client.errors import DeadlineExceeded


class PendingCall(Call):
    """A call in a line.

    Attributes:
        ended: what its task awaits; None where it is the first of an idle line.
        flight: the message that it is in; None while it waits for its turn.
    """

    __slots__ = ("ended", "flight")

    def __init__(self, kind: RequestTemplate, data: Buffer, nbytes: int, timeout: float | None) -> None:
        Call.__init__(self, kind, data, nbytes, timeout)
        self.ended: asyncio.Future[None] | None = None
        self.flight: _MessageInFlight | None = None

    def wake(self) -> None:
        """Let its task go on."""
        if self.ended is not None and not self.ended.done():
            self.ended.set_result(None)


class _MessageInFlight:
    """A message that is under way: its calls, without those whose tasks have left, and the task that carries it."""

    def __init__(self, calls: list[PendingCall]) -> None:
        self.calls = calls
        self.task: asyncio.Task[None] | None = None

    @property
    def timeout(self) -> float | None:
        """The seconds that the most patient of its callers still waits."""
        deadline = 0.0
        for call in self.calls:
            if call.deadline is None:
                return None
            deadline = max(deadline, call.deadline)
        return max(deadline - time.monotonic(), 0.0)

    def leave(self, call: PendingCall) -> None:
        """One of its callers is gone; when all are, so is the reason to wait for an answer."""
        if call in self.calls:
            self.calls.remove(call)
            if not self.calls and self.task is not None:
                self.task.cancel()


class AsyncCoalescer:
    """Sends the calls of many tasks of one event loop, one message at a time. See Coalescer.

    The first call of an idle line goes in its own task. What gathers behind it goes in tasks of the line's own, so
    that no caller's cancellation is another's.

    Args:
        transport: what carries the messages.
        counters: where shared messages are counted.
        address: what the server is called in errors.
    """

    def __init__(self, transport: AsyncTransport, counters: Counters, address: str) -> None:
        self._transport = transport
        self._counters = counters
        self._address = address
        self._begin()
        fork.remember(self)

    def _begin(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: deque[PendingCall] = deque()
        # What the next calls wait behind: a call that goes alone, or a flight.
        self._leader: PendingCall | _MessageInFlight | None = None
        self._flights: set[_MessageInFlight] = set()
        self._patience: asyncio.TimerHandle | None = None
        self._due: asyncio.TimerHandle | None = None
        self._due_at = math.inf

    def after_fork(self) -> None:
        """See fork.Forked. The parent's loop and its tasks do not run in this process."""
        fork.leave_alone(self._flights, self._waiting)
        self._begin()

    def __len__(self) -> int:
        """How many calls wait for their turn."""
        return len(self._waiting)

    async def ask(self, call: PendingCall) -> None:
        """Send `call`, on its own or in company, and wait until it has ended.

        Raises:
            PoolError: it had no answer, or none in time.
        """
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        if self._loop is not loop:
            # The transport has the words for it.
            call.answered(await self._transport.call(POOL, call.request, call.timeout))
        elif self._leader is None:
            self._leader = call
            try:
                call.answered(await self._transport.call(POOL, call.request, call.timeout))
            finally:
                self._hand_over(call)
        else:
            try:
                await self._join(call, loop)
            except asyncio.CancelledError:
                self._leave(call)
                raise
            if call.is_open:
                await self._send_alone(call)

    async def close(self) -> None:
        """Wait for the line's own tasks to end, once the transport is closed."""
        while tasks := [flight.task for flight in self._flights if flight.task is not None]:
            await asyncio.wait(tasks)
        for timer in (self._patience, self._due):
            if timer is not None:
                timer.cancel()
        self._patience = self._due = None
        self._due_at = math.inf

    def _join(self, call: PendingCall, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        """Let the call wait behind what is under way: done when it has ended, or is to be made on its own."""
        call.ended = ended = loop.create_future()
        self._waiting.append(call)
        if len(self._waiting) >= MOST_CALLS:
            self._start(loop)
        elif self._patience is None:
            self._patience = loop.call_later(PATIENCE_SECONDS, self._lose_patience, loop)
        if call.deadline is not None and call.deadline < self._due_at:
            self._watch(call.deadline, loop)
        return ended

    async def _send_alone(self, call: PendingCall) -> None:
        if call.left == 0:
            raise call.overdue(self._address)
        try:
            call.answered(await self._transport.call(POOL, call.request, call.left))
        except DeadlineExceeded:
            # The transport knows of no more than what was left of the call's time.
            raise call.overdue(self._address) from None

    def _hand_over(self, leader: PendingCall | _MessageInFlight) -> None:
        """Let those that wait go, now that what they waited behind is back."""
        if self._leader is leader:
            self._leader = None
            if self._waiting and self._loop is not None:
                self._start(self._loop)

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Send what has gathered."""
        flight = _MessageInFlight(gather(self._waiting))
        for call in flight.calls:
            call.flight = flight
        self._leader = flight
        self._flights.add(flight)
        flight.task = loop.create_task(self._fly(flight))
        flight.task.add_done_callback(lambda _: self._flights.discard(flight))

    async def _fly(self, flight: _MessageInFlight) -> None:
        try:
            pack = CoalescedRequest(flight.calls)
            if len(flight.calls) > 1:
                self._counters.add("coalesced_messages")
                self._counters.add("coalesced_calls", len(flight.calls))
            try:
                answer = await self._transport.call(pack.method, pack.message, flight.timeout)
            except Exception as error:  # noqa: BLE001 - what it means for each call is the pack's to say
                pack.failed(error)
            else:
                pack.answered(answer)
            for call in flight.calls:
                call.wake()
            flight.calls = []
            # Those that were answered ask again before the next message goes: what they ask can travel in it.
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            if flight.calls:
                # Not by those who left: the loop is being shut down, or somebody cancels every task that there is.
                self._disband()
            raise
        finally:
            for call in flight.calls:
                call.wake()
            self._hand_over(flight)

    def _disband(self) -> None:
        """Send those that wait on their own ways."""
        while self._waiting:
            self._waiting.popleft().wake()

    def _leave(self, call: PendingCall) -> None:
        if call.flight is not None:
            call.flight.leave(call)
        elif call in self._waiting:
            self._waiting.remove(call)

    def _lose_patience(self, loop: asyncio.AbstractEventLoop) -> None:
        """Send those that wait if they have waited for long; look again later if there are still any."""
        self._patience = None
        if self._waiting and time.monotonic() - self._waiting[0].since >= PATIENCE_SECONDS:
            self._start(loop)
        if self._waiting:
            left = PATIENCE_SECONDS - (time.monotonic() - self._waiting[0].since)
            # A timer may fire a little early, and must not fire again and again for it.
            self._patience = loop.call_later(max(left, 0.001), self._lose_patience, loop)

    def _watch(self, deadline: float, loop: asyncio.AbstractEventLoop) -> None:
        """Look at the deadlines again when this one, the earliest, has come."""
        if self._due is not None:
            self._due.cancel()
        self._due_at = deadline
        self._due = loop.call_later(max(deadline - time.monotonic(), 0.0), self._expire, loop)

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        """End the calls whose deadline has come. One timer serves all of them, since few calls live until theirs."""
        self._due, self._due_at = None, math.inf
        now = time.monotonic()
        earliest = math.inf
        for call in [*self._waiting, *(call for flight in self._flights for call in flight.calls)]:
            if call.deadline is None:
                continue
            if call.deadline <= now:
                self._leave(call)
                call.failed(call.overdue(self._address))
                call.wake()
            else:
                earliest = min(earliest, call.deadline)
        if earliest < math.inf:
            self._watch(earliest, loop)
