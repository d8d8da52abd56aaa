"""A call of a task, and the message that it is sent in."""

import asyncio
import time

from poolservice.codec import Buffer
from poolservice_client._coalescing.call import BaseCall
from poolservice_client._request.query import PoolQuery
from poolservice_client._request.template import RequestTemplate


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
        self.message: MessageInFlight | None = None

    def wake(self) -> None:
        """End the task's wait. It has no effect if the task does not wait."""
        if self.ended is not None and not self.ended.done():
            self.ended.set_result(None)


class MessageInFlight:
    """A message in flight, without the calls that nobody awaits any more.

    Attributes:
        calls: the calls that are not settled yet.
        task: the task that sends it.
        has_response: whether the response has arrived.
        is_abandoned: whether the task was cancelled because nobody awaits any of the calls.
    """

    def __init__(self, calls: list[PendingCall]) -> None:
        self.calls = calls
        self.task: asyncio.Task[None] | None = None
        self.has_response = False
        self.is_abandoned = False

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
                self.is_abandoned = True
                self.task.cancel()
