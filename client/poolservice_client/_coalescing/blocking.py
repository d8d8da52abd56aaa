"""A line that the threads of a blocking client share: while one call is under way, the next ones gather."""

import threading
from collections import deque
from typing import Literal

from poolservice.codec import Buffer
from poolservice_client._coalescing.message import MOST_CALLS, Call, CoalescedRequest, gather
from poolservice_client._request.template import RequestTemplate
from poolservice_client._stats import Counters
from poolservice_client._transport import fork
from poolservice_client._transport.blocking import POOL, Transport
from poolservice_client.errors import DeadlineExceeded

#: Nobody waits longer than this for another's answer: a slow server is not made slower.
PATIENCE_SECONDS = 0.02


class PendingCall(Call):
    """A call in a line.

    Attributes:
        place: "new" before it is in one; "waiting" for its turn; to "lead", that is to send what has gathered;
            "sent" by another thread; "done".
        carried: the calls that it sends beside itself, and has not settled.
        has_waited: whether another was sent before it, so that its time-out has begun to run.
        wakeup: its thread waits on this; None before it has to.
    """

    __slots__ = ("carried", "has_waited", "place", "wakeup")

    def __init__(self, kind: RequestTemplate, data: Buffer, nbytes: int, timeout: float | None) -> None:
        Call.__init__(self, kind, data, nbytes, timeout)
        self.place: Literal["new", "waiting", "lead", "sent", "done"] = "new"
        self.carried: list[PendingCall] = []
        self.has_waited = False
        self.wakeup: threading.Lock | None = None

    def wait(self, seconds: float | None) -> bool:
        """Wait until it is woken, but not for longer: whether it was."""
        return self.wakeup is not None and self.wakeup.acquire(timeout=-1 if seconds is None else seconds)

    def wake(self) -> None:
        """Let its thread go on. A second time, or where it does not wait, does nothing."""
        if self.wakeup is not None and self.wakeup.locked():
            self.wakeup.release()


class Coalescer:
    """Sends the calls of many threads, one message at a time.

    The first call of an idle line goes at once, in its own thread. What comes while it is under way waits; when it
    is back, its thread hands the lead to the first that waits, which sends all that has gathered. A call goes at
    once, too, when a message is full of waiting ones, and when it has waited for `PATIENCE_SECONDS`.

    Args:
        transport: what carries the messages.
        counters: where shared messages are counted.
        address: what the server is called in errors.
    """

    def __init__(self, transport: Transport, counters: Counters, address: str) -> None:
        self._transport = transport
        self._counters = counters
        self._address = address
        self._begin()
        fork.remember(self)

    def __len__(self) -> int:
        """How many calls wait for their turn."""
        return len(self._waiting)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[PendingCall] = deque()
        self._leader: PendingCall | None = None

    def after_fork(self) -> None:
        """See fork.Forked. The threads that held the lock, led and waited are not in this process."""
        self._begin()

    def ask(self, call: PendingCall) -> None:
        """Send `call`, on its own or in company, and wait until it has ended.

        Raises:
            PoolError: it had no answer, or none in time.
        """
        try:
            if self._takes_the_lead(call) or self._waits(call):
                self._send(call)
        finally:
            # Whatever ended it, an interrupt among them: nobody waits for what will not come.
            if call.place != "done" or self._leader is call or call.carried:
                self._leave(call)
        if call.is_open:
            self._send_alone(call)

    def _takes_the_lead(self, call: PendingCall) -> bool:
        with self._lock:
            if self._leader is None or len(self._waiting) >= MOST_CALLS - 1:
                self._leader = call
                call.place = "lead"
                return True
            # A bare lock is the cheapest thing that a thread can wait on.
            call.wakeup = threading.Lock()
            call.wakeup.acquire()
            call.place = "waiting"
            self._waiting.append(call)
            return False

    def _waits(self, call: PendingCall) -> bool:
        """Wait until the call has been answered, or is to lead: whether it is.

        Raises:
            DeadlineExceeded: it has waited for as long as it may.
        """
        call.has_waited = True
        left = call.left
        if not call.wait(PATIENCE_SECONDS if left is None else min(PATIENCE_SECONDS, left)):
            with self._lock:
                if call.place == "waiting":
                    self._waiting.remove(call)
                    self._leader = call
                    call.place = "lead"
            if call.place != "lead" and not call.wait(call.left):
                with self._lock:
                    if call.place in ("waiting", "sent"):
                        raise call.overdue(self._address)
        return call.place == "lead"

    def _send(self, leader: PendingCall) -> None:
        """Send what has gathered, and settle it."""
        if self._waiting:
            if leader.left == 0:
                raise leader.overdue(self._address)
            with self._lock:
                leader.carried = gather(self._waiting, leader)[1:]
                for call in leader.carried:
                    call.place = "sent"
        if leader.carried:
            pack = CoalescedRequest([leader, *leader.carried])
            self._counters.add("coalesced_messages")
            self._counters.add("coalesced_calls", 1 + len(leader.carried))
            try:
                answer = self._transport.call(pack.method, pack.message, leader.left)
            except Exception as error:  # noqa: BLE001 - what it means for each call is the pack's to say
                pack.failed(error)
            else:
                pack.answered(answer)
            self._pass_on(leader)
            for call in leader.carried:
                call.place = "done"
                call.wake()
            leader.carried = []
        else:
            self._send_alone(leader)
        leader.place = "done"

    def _pass_on(self, leader: PendingCall) -> None:
        """Let the last of those that were carried hand the lead over, not the first to be back.

        It wakes when the others have: what they ask next has gathered by then, and travels in one message.
        """
        with self._lock:
            if self._leader is leader:
                self._leader = next((call for call in reversed(leader.carried) if call.place == "sent"), leader)

    def _send_alone(self, call: PendingCall) -> None:
        if not call.has_waited:
            call.answered(self._transport.call(POOL, call.request, call.timeout))
            return
        if call.left == 0:
            raise call.overdue(self._address)
        try:
            call.answered(self._transport.call(POOL, call.request, call.left))
        except DeadlineExceeded:
            # The transport knows of no more than what was left of the call's time.
            raise call.overdue(self._address) from None

    def _leave(self, call: PendingCall) -> None:
        """Take the call out of the line, give back what it carried, and hand the lead over."""
        with self._lock:
            if call in self._waiting:
                self._waiting.remove(call)
            call.place = "done"
            for other in reversed(call.carried):
                if not other.is_open:
                    other.wake()
                elif other.place == "sent":
                    other.place = "waiting"
                    self._waiting.appendleft(other)
            call.carried = []
            if self._leader is call:
                self._leader = self._waiting.popleft() if self._waiting else None
                if self._leader is not None:
                    self._leader.place = "lead"
                    self._leader.wake()
