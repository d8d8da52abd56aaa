"""Expires the requests whose deadline passes while they wait or run, with one timer for all of them."""

import asyncio
from collections.abc import Callable, Iterable

from poolservice_server.batcher.queue_entry import QueueEntry

# A timer of the event loop may fire this much too early.
_TIMER_RESOLUTION_SECONDS = 0.001

_NEVER = float("inf")


class Deadlines:
    """The deadlines of the entries that wait or run.

    Entries are expired when their deadline passes. One timer is set to the earliest deadline; a timer per request
    would cost more than most requests take to compute.

    Args:
        entries: returns all entries that wait or run.
        expire: called with each entry whose deadline has passed.
        clock: seconds, on the time base of the loop's timers.
    """

    def __init__(
        self,
        entries: Callable[[], Iterable[QueueEntry]],
        expire: Callable[[QueueEntry], None],
        clock: Callable[[], float],
    ) -> None:
        self._entries = entries
        self._expire = expire
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        self._earliest = _NEVER

    def watch(self, loop: asyncio.AbstractEventLoop, deadline: float | None) -> None:
        """Set the timer to `deadline` if that is earlier than all known deadlines."""
        if deadline is not None and deadline < self._earliest:
            self.stop()
            self._earliest = deadline
            self._timer = loop.call_at(deadline, self.expire_passed, loop)

    def has_passed(self, now: float) -> bool:
        """Return True if the earliest deadline has passed and `expire_passed` has not handled it yet."""
        return now >= self._earliest

    def expire_passed(self, loop: asyncio.AbstractEventLoop) -> None:
        """Expire the entries whose deadline has passed, and set the timer to the next deadline."""
        now = self._clock() + _TIMER_RESOLUTION_SECONDS
        self._earliest = _NEVER
        earliest = None
        for entry in list(self._entries()):
            deadline = entry.request.deadline
            if deadline is None or entry.done():
                continue
            if deadline <= now:
                self._expire(entry)
            elif earliest is None or deadline < earliest:
                earliest = deadline
        self.watch(loop, earliest)

    def stop(self) -> None:
        """Cancel the timer and forget the earliest deadline."""
        self._earliest = _NEVER
        if self._timer is not None:
            self._timer.cancel()
