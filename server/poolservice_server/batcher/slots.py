"""The slots: how much work runs on threads at the same time, and what waits for it."""

from collections.abc import Iterator
from typing import Generic

from poolservice_server.batcher.queue import E, Queue


class Slots(Generic[E]):
    """The rights to run work on threads, and the queues of what waits for one.

    Long work may hold all slots. While it does, there is one more for short work, so that short work never waits until
    long work ends; the operating system then divides the processors. Keeping one of the slots free of long work instead
    would leave a processor idle whenever all work is long.

    Args:
        count: number of slots.
        long_seconds: estimated seconds from which work is long.
        ahead_seconds: short work is handed to the threads ahead, up to this much estimated work in all and while no
            long work waits, so that a thread finds its next work without waiting for the event loop.
        max_batch_size, max_batch_bytes: see `Queue`.

    Attributes:
        free: slots in which short work may start; negative while work has been handed over ahead.
        short: short work that waits.
        long: long work that waits.
    """

    __slots__ = (
        "_ahead_seconds",
        "_count",
        "_long_running",
        "_long_seconds",
        "_short_running",
        "_short_seconds",
        "free",
        "long",
        "short",
    )

    def __init__(
        self,
        count: int,
        *,
        long_seconds: float,
        ahead_seconds: float = 0.0,
        max_batch_size: int = 1,
        max_batch_bytes: float = float("inf"),
    ) -> None:
        self._count = count
        self._ahead_seconds = ahead_seconds
        self._short_seconds = 0.0
        self._long_seconds = long_seconds
        self._short_running = 0
        self._long_running = 0
        self.free = count
        self.short: Queue[E] = Queue(max_batch_size=max_batch_size, max_batch_bytes=max_batch_bytes)
        self.long: Queue[E] = Queue(max_batch_size=max_batch_size, max_batch_bytes=max_batch_bytes)

    @property
    def is_ahead(self) -> bool:
        """True if work that starts now has no slot yet, but is handed over ahead."""
        return self.free <= 0

    @property
    def threads(self) -> int:
        """The largest number of slots in use at the same time."""
        return self._count + 1

    def waiting(self) -> int:
        """Return the number of entries that wait."""
        return len(self.short) + len(self.long)

    def waiting_bytes(self) -> int:
        """Return the size of the requests that wait."""
        return self.short.nbytes + self.long.nbytes

    def __iter__(self) -> Iterator[E]:
        """Return the entries that wait."""
        yield from self.short
        yield from self.long

    def append(self, entry: E, seconds: float) -> None:
        """Let an entry with this estimated work wait for a slot."""
        entry.seconds = seconds
        (self.long if seconds >= self._long_seconds else self.short).append(entry)

    def usable(self) -> tuple[Queue[E], ...]:
        """Return the queues whose entries may start now, the one with the older next entry first."""
        if self.is_ahead:
            return (self.short,) if self._short_seconds < self._ahead_seconds and not self.long else ()
        if not self.long or self._short_running + self._long_running >= self._count:
            return (self.short,)
        first_short, first_long = self.short.first(), self.long.first()
        if first_short is None or (first_long is not None and first_long.number < first_short.number):
            return (self.long, self.short)
        return (self.short, self.long)

    def start(self, queue: Queue[E], seconds: float = 0.0) -> bool:
        """Take a slot for work from this queue, of these estimated seconds, and return True if the work is long."""
        is_long = queue is self.long
        if is_long:
            self._long_running += 1
        else:
            self._short_running += 1
            self._short_seconds += seconds
        self._count_free()
        return is_long

    def end(self, *, is_long: bool, seconds: float = 0.0) -> None:
        """Give back a slot that was taken for work of these estimated seconds."""
        if is_long:
            self._long_running -= 1
        else:
            self._short_running -= 1
            # Without the rounding errors of the sum once nothing runs.
            self._short_seconds = self._short_seconds - seconds if self._short_running else 0.0
        self._count_free()

    def _count_free(self) -> None:
        self.free = self._count - self._short_running - min(self._long_running, self._count - 1)
