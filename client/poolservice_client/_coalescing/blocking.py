"""Coalescing the calls of threads: calls made while messages are in flight wait and share the next one."""

import threading
import time

from poolservice_client._coalescing.blocking_call import PendingCall
from poolservice_client._coalescing.limits import MessageLimits
from poolservice_client._coalescing.queue import CallQueue
from poolservice_client._coalescing.request import CoalescedRequest
from poolservice_client._stats import Counters
from poolservice_client._transport import fork
from poolservice_client._transport.blocking import Transport
from poolservice_client._transport.methods import POOL
from poolservice_client.errors import DeadlineExceeded


class Coalescer:
    """Sends the calls of many threads in few messages. CallQueue decides when each message is sent.

    It has no threads of its own: the thread of one of a message's calls, its leader, sends the message. The first call
    of an idle coalescer leads immediately. Calls that arrive while a message is in flight wait. The leader of the next
    message is the call that has just arrived if that makes the message due, and otherwise a waiting call, usually the
    first.

    Args:
        transport: sends the messages.
        counters: count the coalesced calls and messages.
        address: the server's name in errors.
        message_limits: the size of a full message.
    """

    def __init__(self, transport: Transport, counters: Counters, address: str, message_limits: MessageLimits) -> None:
        self._transport = transport
        self._counters = counters
        self._address = address
        self._message_limits = message_limits
        self._reset()
        fork.register(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._queue: CallQueue[PendingCall] = CallQueue(self._message_limits, self._counters)

    def after_fork(self) -> None:
        """See fork.ForkAware. The threads that held the lock, led or waited do not exist in this process."""
        self._reset()

    def send(self, call: PendingCall) -> None:
        """Send the call, possibly together with others, and wait until it is settled.

        Raises:
            PoolError: the call failed.
        """
        try:
            if self._try_to_lead(call) or self._wait_to_lead(call):
                self._lead(call)
        finally:
            # Whatever ended the call, even a KeyboardInterrupt: no other call may wait for its thread.
            if call.holds is not None or call.state != "done" or call.followers:
                self._clean_up(call)
        if not call.is_settled:
            self._send_uncoalesced(call)

    def _try_to_lead(self, call: PendingCall) -> bool:
        """Make the call the leader and return True, or let it join the waiting ones."""
        with self._lock:
            if self._queue.is_free(call.created):
                self._make_leader(call, call.created)
                return True
            is_full = self._queue.append(call)
            call.due_at = self._queue.due_for(call)
            if call.due_at <= call.created or (is_full and self._queue.is_due(call.created)):
                self._queue.remove(call)
                self._make_leader(call, call.created)
                return True
            call.prepare_wait()
            call.state = "waiting"
            return False

    def _wait_to_lead(self, call: PendingCall) -> bool:
        """Wait until another thread has sent the call, or until it leads. Return True if it leads.

        Raises:
            DeadlineExceeded: its deadline has passed.
        """
        call.has_waited = True
        call.wait_until(call.due_at if call.deadline is None else min(call.due_at, call.deadline), call.created)
        # Without the lock: whoever changes the state does so last, and before waking the thread.
        while call.state not in ("leading", "done"):
            with self._lock:
                now = time.monotonic()
                until = call.deadline
                if call.state in ("waiting", "sent") and until is not None and until <= now:
                    raise call.timeout_error(self._address)
                if call.state == "waiting":
                    call.due_at = self._queue.due_for(call)
                    if call.due_at <= now:
                        self._queue.remove(call)
                        self._make_leader(call, now)
                        return True
                    until = call.due_at if until is None else min(until, call.due_at)
                elif call.state != "sent":
                    break
            call.wait_until(until, now)
        return call.state == "leading"

    def _make_leader(self, call: PendingCall, now: float) -> None:
        self._queue.count_sent(now)
        call.holds = "in_flight"
        # The last step, because the call's thread may go on as soon as it sees the state.
        call.state = "leading"

    def _lead(self, leader: PendingCall) -> None:
        """Send the leader and the calls that are waiting, and settle them."""
        if self._queue.calls:
            if leader.remaining == 0:
                raise leader.timeout_error(self._address)
            with self._lock:
                leader.followers = self._queue.take_message(leader)[1:]
                for call in leader.followers:
                    call.state = "sent"
                self._advance()
        if not leader.followers:
            self._send_uncoalesced(leader)
            leader.state = "done"
            return
        request = CoalescedRequest([leader, *leader.followers])
        self._counters.add("coalesced_messages")
        self._counters.add("coalesced_calls", 1 + len(leader.followers))
        try:
            response = self._transport.call(request.method, request.message, leader.remaining, traces=request.traces)
        except Exception as error:  # noqa: BLE001 - the request decides what it means for each call
            self._count_response(leader)
            request.set_error(error)
        else:
            self._count_response(leader)
            request.set_response(response)
        self._settle(leader)

    def _count_response(self, leader: PendingCall) -> None:
        """Note that the response has arrived. The server gets its next message before the results are distributed."""
        with self._lock:
            leader.holds = "arriving"
            self._queue.count_arriving()
            self._advance()

    def _settle(self, leader: PendingCall) -> None:
        """Wake the followers. The last one ends the arrival.

        Its thread wakes after those of the others. By then their next calls wait and share one message.
        """
        with self._lock:
            followers, leader.followers = leader.followers, []
            last = next((call for call in reversed(followers) if call.state == "sent"), None)
            if last is not None:
                leader.holds, last.holds = None, "arriving"
            for call in followers:
                call.state = "done"
            leader.state = "done"
        for call in followers:
            call.wake()

    def _send_uncoalesced(self, call: PendingCall) -> None:
        if not call.has_waited:
            call.set_response(self._transport.call(POOL, call.request, call.timeout))
            return
        if call.remaining == 0:
            raise call.timeout_error(self._address)
        try:
            call.set_response(self._transport.call(POOL, call.request, call.remaining))
        except DeadlineExceeded:
            # The transport's error names the remaining seconds, not the caller's timeout.
            raise call.timeout_error(self._address) from None

    def _advance(self) -> None:
        """Make the first waiting call the leader if it is due; if only time can make it due, let its thread watch.

        While a message is arriving, its end will advance again, so no thread is woken for nothing.
        """
        queue = self._queue
        if not queue.calls:
            return
        now = time.monotonic()
        first = queue.calls[0]
        if queue.is_due(now):
            queue.remove(first)
            self._make_leader(first, now)
            first.wake()
        elif queue.has_slot and not queue.arriving:
            first.wake()

    def _clean_up(self, call: PendingCall) -> None:
        """Hand back what the call holds, let its unsettled followers wait again, and choose the next leader."""
        with self._lock:
            if call.state == "waiting":
                self._queue.remove(call)
            call.state = "done"
            for follower in reversed(call.followers):
                if follower.state != "sent":
                    continue
                if follower.is_settled:
                    follower.state = "done"
                    follower.wake()
                else:
                    follower.state = "waiting"
                    self._queue.put_back(follower)
            call.followers = []
            if call.holds == "in_flight":
                self._queue.count_ended()
            elif call.holds == "arriving":
                self._queue.end_arriving()
            call.holds = None
            self._advance()
