"""Coalescing the calls of threads: calls made while a message is in flight wait and share the next one."""

import threading
from collections import deque
from typing import Literal

from poolservice.codec import Buffer
from poolservice_client._coalescing import limits
from poolservice_client._coalescing.call import BaseCall
from poolservice_client._coalescing.request import CoalescedRequest, take_message
from poolservice_client._request.query import PoolQuery
from poolservice_client._request.template import RequestTemplate
from poolservice_client._stats import Counters
from poolservice_client._transport import fork
from poolservice_client._transport.blocking import Transport
from poolservice_client._transport.methods import POOL
from poolservice_client.errors import DeadlineExceeded


class PendingCall(BaseCall):
    """A call of a thread.

    Attributes:
        state: "new" before the coalescer has it; "waiting" to be sent; "leading" if its thread sends the next message;
            "sent" in another thread's message; "done".
        followers: the other calls in the message that its thread is sending.
        has_waited: whether it waited before it was sent, so that a part of its timeout has passed.
        wakeup: the lock that its thread waits on; None if it never had to wait.
    """

    __slots__ = ("followers", "has_waited", "state", "wakeup")

    def __init__(
        self, query: PoolQuery, template: RequestTemplate, data: Buffer, nbytes: int, timeout: float | None
    ) -> None:
        BaseCall.__init__(self, query, template, data, nbytes, timeout)
        self.state: Literal["new", "waiting", "leading", "sent", "done"] = "new"
        self.followers: list[PendingCall] = []
        self.has_waited = False
        self.wakeup: threading.Lock | None = None

    def wait(self, seconds: float | None) -> bool:
        """Wait for `wake`, for at most `seconds`. Return True if it was called."""
        return self.wakeup is not None and self.wakeup.acquire(timeout=-1 if seconds is None else seconds)

    def wake(self) -> None:
        """End the thread's wait. It has no effect if the thread does not wait."""
        if self.wakeup is not None and self.wakeup.locked():
            self.wakeup.release()


class Coalescer:
    """Sends the calls of many threads, one message at a time.

    One call at a time is the leader: its thread sends it, together with the calls that are waiting then. The first
    call of an idle coalescer leads immediately. Calls that arrive while its message is in flight wait. When the
    response has arrived, another call becomes the leader. A call also leads when enough calls for a full message are
    waiting, and when it has waited for `MAX_WAIT_SECONDS`.

    Args:
        transport: sends the messages.
        counters: count the coalesced calls and messages.
        address: the server's name in errors.
    """

    def __init__(self, transport: Transport, counters: Counters, address: str) -> None:
        self._transport = transport
        self._counters = counters
        self._address = address
        self._reset()
        fork.register(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[PendingCall] = deque()
        self._leader: PendingCall | None = None

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
            if call.state != "done" or self._leader is call or call.followers:
                self._clean_up(call)
        if not call.is_settled:
            self._send_uncoalesced(call)

    def _try_to_lead(self, call: PendingCall) -> bool:
        """Make the call the leader and return True, or let it join the waiting ones."""
        with self._lock:
            if self._leader is None or len(self._waiting) >= limits.MAX_CALLS - 1:
                self._leader = call
                call.state = "leading"
                return True
            # A bare lock is the cheapest object that a thread can wait on.
            call.wakeup = threading.Lock()
            call.wakeup.acquire()
            call.state = "waiting"
            self._waiting.append(call)
            return False

    def _wait_to_lead(self, call: PendingCall) -> bool:
        """Wait until another thread has sent the call, or until it leads. Return True if it leads.

        Raises:
            DeadlineExceeded: its deadline has passed.
        """
        call.has_waited = True
        remaining = call.remaining
        max_wait = limits.MAX_WAIT_SECONDS
        if not call.wait(max_wait if remaining is None else min(max_wait, remaining)):
            with self._lock:
                if call.state == "waiting":
                    self._waiting.remove(call)
                    self._leader = call
                    call.state = "leading"
            if call.state != "leading" and not call.wait(call.remaining):
                with self._lock:
                    if call.state in ("waiting", "sent"):
                        raise call.timeout_error(self._address)
        return call.state == "leading"

    def _lead(self, leader: PendingCall) -> None:
        """Send the leader and the calls that are waiting, and settle them."""
        if self._waiting:
            if leader.remaining == 0:
                raise leader.timeout_error(self._address)
            with self._lock:
                leader.followers = take_message(self._waiting, leader)[1:]
                for call in leader.followers:
                    call.state = "sent"
        if leader.followers:
            request = CoalescedRequest([leader, *leader.followers])
            self._counters.add("coalesced_messages")
            self._counters.add("coalesced_calls", 1 + len(leader.followers))
            try:
                response = self._transport.call(request.method, request.message, leader.remaining)
            except Exception as error:  # noqa: BLE001 - the request decides what it means for each call
                request.set_error(error)
            else:
                request.set_response(response)
            self._promote_last_follower(leader)
            for call in leader.followers:
                call.state = "done"
                call.wake()
            leader.followers = []
        else:
            self._send_uncoalesced(leader)
        leader.state = "done"

    def _promote_last_follower(self, leader: PendingCall) -> None:
        """Make the last follower the leader, so that its thread chooses the next one.

        That thread wakes after those of the other followers. By then their next calls wait and share one message.
        """
        with self._lock:
            if self._leader is leader:
                self._leader = next((call for call in reversed(leader.followers) if call.state == "sent"), leader)

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

    def _clean_up(self, call: PendingCall) -> None:
        """Remove the call, let its unsettled followers wait again, and choose the next leader."""
        with self._lock:
            if call in self._waiting:
                self._waiting.remove(call)
            call.state = "done"
            for follower in reversed(call.followers):
                if follower.is_settled:
                    follower.wake()
                elif follower.state == "sent":
                    follower.state = "waiting"
                    self._waiting.appendleft(follower)
            call.followers = []
            if self._leader is call:
                self._leader = self._waiting.popleft() if self._waiting else None
                if self._leader is not None:
                    self._leader.state = "leading"
                    self._leader.wake()
