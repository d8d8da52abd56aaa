"""The calls that wait for a message, and the decision when the next message is sent."""

from collections import deque
from typing import Generic, TypeVar

from poolservice_client._coalescing import limits
from poolservice_client._coalescing.call import BaseCall
from poolservice_client._coalescing.limits import MessageLimits
from poolservice_client._stats import Counters

AnyCall = TypeVar("AnyCall", bound=BaseCall)


class CallQueue(Generic[AnyCall]):
    """The calls of one client that wait, and the number of messages that they wait for.

    A message is sent immediately if no other one is in flight. While fewer than `DEPTH` are in flight, or fewer than
    the client has connections, the next one is sent when it is full, or `OVERLAP_SECONDS` after the last one; for a
    backbone, immediately. Whatever is in flight, no call waits longer than `MAX_WAIT_SECONDS`.

    A message whose response has arrived is no longer in flight, but it is `arriving` until its callers have had the
    chance to make their next calls. Until then only a full message may take its slot, so that those calls share one.

    Not thread-safe. Times are in seconds of time.monotonic.

    Args:
        message_limits: the size of a full message.
        counters: say how many connections the client has.

    Attributes:
        calls: the waiting calls, the oldest first.
        in_flight: messages without a response, and calls that were sent uncoalesced.
        arriving: messages whose response has just arrived.
    """

    def __init__(self, message_limits: MessageLimits, counters: Counters) -> None:
        self.calls: deque[AnyCall] = deque()
        self.in_flight = 0
        self.arriving = 0
        self._max_bytes, self._max_calls, self._waits_for_more = message_limits
        self._counters = counters
        self._nbytes = 0
        self._last_sent = 0.0

    @property
    def has_slot(self) -> bool:
        """Whether a message that is not full may be sent before a response arrives."""
        return self.in_flight + self.arriving < self._depth

    @property
    def due_at(self) -> float:
        """The time at which the first waiting call is due even if no other call comes and no response arrives."""
        if not self.in_flight and not self.arriving:
            return 0.0
        latest = self.calls[0].created + limits.MAX_WAIT_SECONDS
        return min(latest, self._last_sent + self._overlap_seconds) if self.has_slot else latest

    @property
    def _overlap_seconds(self) -> float:
        return limits.OVERLAP_SECONDS if self._waits_for_more else 0.0

    @property
    def _depth(self) -> int:
        return max(limits.DEPTH, self._counters.get("connections"))

    def due_for(self, call: AnyCall) -> float:
        """Return the time at which a waiting call must send a message: early for the first one only."""
        return self.due_at if call is self.calls[0] else call.created + limits.MAX_WAIT_SECONDS

    def is_due(self, now: float) -> bool:
        """Return True if a message of the waiting calls should be sent now."""
        if not self.calls:
            return False
        if now >= self.due_at:
            return True
        is_full = self._nbytes >= self._max_bytes or len(self.calls) >= self._max_calls
        return is_full and self.in_flight < self._depth

    def is_free(self, now: float) -> bool:
        """Return True if a call that arrives now should be sent immediately and uncoalesced."""
        if self.calls:
            return False
        if not self.in_flight and not self.arriving:
            return True
        return now >= self._last_sent + self._overlap_seconds and self.has_slot

    def append(self, call: AnyCall) -> bool:
        """Add a call behind the others. Return True if the waiting calls fill a message."""
        self.calls.append(call)
        self._nbytes += call.nbytes
        return self._nbytes >= self._max_bytes or len(self.calls) >= self._max_calls

    def put_back(self, call: AnyCall) -> None:
        """Add a call whose message was not sent, in front of the others."""
        self.calls.appendleft(call)
        self._nbytes += call.nbytes

    def remove(self, call: AnyCall) -> None:
        """Remove a waiting call."""
        self.calls.remove(call)
        self._nbytes -= call.nbytes

    def take_message(self, first: AnyCall | None = None) -> list[AnyCall]:
        """Remove the calls of the next message from the waiting ones, and return them after `first`."""
        calls = [] if first is None else [first]
        nbytes = 0 if first is None else first.nbytes
        before = nbytes
        waiting, max_calls, max_bytes = self.calls, self._max_calls, self._max_bytes
        while waiting and len(calls) < max_calls and nbytes < max_bytes:
            call = waiting.popleft()
            calls.append(call)
            nbytes += call.nbytes
        self._nbytes -= nbytes - before
        return calls

    def count_sent(self, now: float) -> None:
        """Count a message, or a call that is sent uncoalesced."""
        self.in_flight += 1
        self._last_sent = now

    def count_arriving(self) -> None:
        """Count the response to a message. `end_arriving` must follow."""
        self.in_flight -= 1
        self.arriving += 1

    def end_arriving(self) -> None:
        """Note that the callers of a message have had the chance to make their next calls."""
        self.arriving -= 1

    def count_ended(self) -> None:
        """Count the end of a message that nobody waits for, or of a call that was sent uncoalesced."""
        self.in_flight -= 1
