"""An accepted request in the batcher."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from poolservice_server.batcher.admission import Permit
from poolservice_server.batcher.request import Completed, Request


class Removable(Protocol):
    """A queue from which an entry can be removed."""

    def remove(self, entry: "QueueEntry") -> None:
        """Remove an entry, wherever it is in the queue."""


class QueueEntry(asyncio.Future[Completed]):
    """An accepted request and the future that its caller awaits.

    They are one object because every call needs both. A subclass of Future notices its cancellation immediately;
    a done-callback would cost every request a scheduled call of the event loop.

    Attributes:
        request: the request.
        permit: its permit.
        number: the order of arrival.
        arrived: when it arrived, in seconds of the batcher's clock.
        seconds: its estimated work in the queue that it waits in.
        queue: the queue that it waits in; None before and after that.
    """

    __slots__ = ("_on_cancel", "arrived", "number", "permit", "queue", "request", "seconds")

    def __init__(
        self,
        request: Request,
        permit: Permit,
        number: int,
        arrived: float,
        *,
        on_cancel: Callable[["QueueEntry"], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(loop=loop)
        self.request = request
        self.permit = permit
        self.number = number
        self.arrived = arrived
        self.seconds = 0.0
        self.queue: Removable | None = None
        self._on_cancel = on_cancel

    def cancel(self, msg: object = None) -> bool:
        """Cancel the request because its caller left."""
        if not super().cancel(msg):
            return False
        self._on_cancel(self)
        return True


def nobody_waits(batch: list[QueueEntry]) -> bool:
    """Return True if all callers of a batch have left, or their deadlines have passed.

    This is the `Stop` of a batch. It may be called on any thread.
    """
    for entry in batch:  # noqa: SIM110 - a generator would cost more than most calls
        if not entry.done():
            return False
    return True
