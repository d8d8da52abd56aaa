"""When the next deadline passes, of all that wait or run."""

import asyncio
from collections.abc import Callable, Iterable

from poolservice_server.batcher.queue import QueueEntry

# A timer of the event loop may fire this much too early.
_TIMER_GRAIN_SECONDS = 0.001

_NEVER = float("inf")


class Deadlines:
    """One timer for all, set to the earliest; to set one a call would cost more than most calls' work.

    Args:
        entries: all who wait or run now.
        expire: what to do with one whose deadline has passed.
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
        self._next = _NEVER

    def watch(self, loop: asyncio.AbstractEventLoop, deadline: float | None) -> None:
        """Somebody came who waits until `deadline`."""
        if deadline is not None and deadline < self._next:
            self.forget()
            self._next = deadline
            self._timer = loop.call_at(deadline, self.pass_by, loop)

    def passed(self, now: float) -> bool:
        """Whether one has passed that nobody has been told of yet."""
        return now >= self._next

    def pass_by(self, loop: asyncio.AbstractEventLoop) -> None:
        """Tell those whose deadline has passed."""
        now = self._clock() + _TIMER_GRAIN_SECONDS
        self._next = _NEVER
        earliest = None
        for entry in list(self._entries()):
            deadline = entry.work.deadline
            if deadline is None or entry.done():
                continue
            if deadline <= now:
                self._expire(entry)
            elif earliest is None or deadline < earliest:
                earliest = deadline
        self.watch(loop, earliest)

    def forget(self) -> None:
        """Nobody needs to be told any more."""
        self._next = _NEVER
        if self._timer is not None:
            self._timer.cancel()
