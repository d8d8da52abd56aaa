"""A call of a thread, and how the thread waits for it."""

import threading
from typing import Literal

from poolservice.codec import Buffer
from poolservice_client._coalescing.call import BaseCall
from poolservice_client._request.query import PoolQuery
from poolservice_client._request.template import RequestTemplate


class PendingCall(BaseCall):
    """A call of a thread.

    Attributes:
        state: "new" before the coalescer has it; "waiting" to be sent; "leading" if its thread sends the next message;
            "sent" in another thread's message; "done".
        holds: what its thread must hand back to the queue: the count of a message "in_flight" or "arriving"; or None.
        followers: the other calls in the message that its thread is sending.
        has_waited: whether it waited before it was sent, so that a part of its timeout has passed.
        due_at: the time until which its thread waits before it sends a message, in seconds of time.monotonic.
        wakeup: the lock that its thread waits on; None if it never had to wait.
    """

    __slots__ = ("due_at", "followers", "has_waited", "holds", "state", "wakeup")

    def __init__(
        self, query: PoolQuery, template: RequestTemplate, data: Buffer, nbytes: int, timeout: float | None
    ) -> None:
        BaseCall.__init__(self, query, template, data, nbytes, timeout)
        self.state: Literal["new", "waiting", "leading", "sent", "done"] = "new"
        self.holds: Literal["in_flight", "arriving"] | None = None
        self.followers: list[PendingCall] = []
        self.has_waited = False
        self.due_at = 0.0
        self.wakeup: threading.Lock | None = None

    def prepare_wait(self) -> None:
        """Create what the thread waits on."""
        # A bare lock is the cheapest object that a thread can wait on.
        self.wakeup = threading.Lock()
        self.wakeup.acquire()

    def wait_until(self, until: float | None, now: float) -> None:
        """Wait for `wake`, at most until a time. It may have been called for an earlier state of the call."""
        if self.wakeup is not None:
            self.wakeup.acquire(timeout=-1 if until is None else max(until - now, 0.0))

    def wake(self) -> None:
        """Let the thread look at the call's state. It has no effect if the thread does not wait.

        Two threads never wake a call at the same time: a waiting call is woken under the coalescer's lock, a sent one
        by the thread that sends it.
        """
        if self.wakeup is not None and self.wakeup.locked():
            self.wakeup.release()
