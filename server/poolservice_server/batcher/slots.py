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
        max_batch_size, max_batch_bytes: see `Queue`.

    Attributes:
        free: slots in which short work may start.
        short: short work that waits.
        long: long work that waits.
    """

    __slots__ = ("_count", "_long_running", "_long_seconds", "_short_running", "free", "long", "short")

    def __init__(
        self, count: int, *, long_seconds: float, max_batch_size: int = 1, max_batch_bytes: float = float("inf")
    ) -> None:
        self._count = count
        self._long_seconds = long_seconds
        self._short_running = 0
        self._long_running = 0
        self.free = count
        self.short: Queue[E] = Queue(max_batch_size=max_batch_size, max_batch_bytes=max_batch_bytes)
        self.long: Queue[E] = Queue(max_batch_size=max_batch_size, max_batch_bytes=max_batch_bytes)

    @property
    def threads(self) -> int:
        """The largest number of slots in use at the same time."""
        return self._count + 1

    def waiting(self) -> int:
        """Return the number of entries that wait."""
        return len(self.short) + len(self.long)

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
        if not self.free:
            return ()
        if not self.long or self._short_running + self._long_running >= self._count:
            return (self.short,)
        first_short, first_long = self.short.first(), self.long.first()
        if first_short is None or (first_long is not None and first_long.number < first_short.number):
            return (self.long, self.short)
        return (self.short, self.long)

    def start(self, queue: Queue[E]) -> bool:
        """Take a slot for work from this queue, and return True if the work is long."""
        is_long = queue is self.long
        if is_long:
            self._long_running += 1
        else:
            self._short_running += 1
        self._count_free()
        return is_long

    def end(self, *, is_long: bool) -> None:
        """Give a slot back."""
        if is_long:
            self._long_running -= 1
        else:
            self._short_running -= 1
        self._count_free()

    def _count_free(self) -> None:
        self.free = self._count - self._short_running - min(self._long_running, self._count - 1)
