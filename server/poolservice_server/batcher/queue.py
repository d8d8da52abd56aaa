"""The line of waiting work: in the order of arrival, and by group."""

import asyncio
from collections.abc import Callable, Hashable, Iterator

from poolservice_server.batcher.admission import Permit
from poolservice_server.batcher.request import Completed, Request


class QueueEntry(asyncio.Future[Completed]):
    """An accepted item and the future that its caller awaits, in one object since there is one for every call.

    A subclass learns of its cancellation at once, where a done-callback would cost a turn of the loop for every item.
    """

    __slots__ = ("_on_cancel", "arrived", "number", "permit", "work")

    def __init__(
        self,
        work: Request,
        permit: Permit,
        number: int,
        arrived: float,
        *,
        on_cancel: Callable[["QueueEntry"], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(loop=loop)
        self.work = work
        self.permit = permit
        self.number = number
        self.arrived = arrived
        self._on_cancel = on_cancel

    def cancel(self, msg: object = None) -> bool:
        """The caller left."""
        if not super().cancel(msg):
            return False
        self._on_cancel(self)
        return True


class _KeyQueue:
    """The waiting items of one key, by number."""

    __slots__ = ("entries", "nbytes")

    def __init__(self) -> None:
        self.entries: dict[int, QueueEntry] = {}
        self.nbytes = 0


class Queue:
    """Who waits. The group of whoever waits longest is the next to run, so that none starves.

    Args:
        max_batch_size: items in a batch at most.
        max_batch_bytes: bytes in a batch at most; an item that has more by itself is a batch by itself.
    """

    def __init__(self, *, max_batch_size: int, max_batch_bytes: int) -> None:
        self._max_batch_size = max_batch_size
        self._max_batch_bytes = max_batch_bytes
        # By number, which is the order of arrival.
        self._entries: dict[int, QueueEntry] = {}
        self._groups: dict[Hashable, _KeyQueue] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[QueueEntry]:
        return iter(self._entries.values())

    def __contains__(self, entry: QueueEntry) -> bool:
        return entry.number in self._entries

    def join(self, entry: QueueEntry) -> None:
        """Stand at the end of the line."""
        work = entry.work
        self._entries[entry.number] = entry
        group = self._groups.get(work.key)
        if group is None:
            group = self._groups[work.key] = _KeyQueue()
        group.entries[entry.number] = entry
        group.nbytes += work.nbytes

    def leave(self, entry: QueueEntry) -> None:
        """Step out of the line, from anywhere in it."""
        work = entry.work
        del self._entries[entry.number]
        group = self._groups[work.key]
        del group.entries[entry.number]
        group.nbytes -= work.nbytes
        if not group.entries:
            del self._groups[work.key]

    def oldest(self) -> QueueEntry | None:
        """Whoever waits longest."""
        return next(iter(self._entries.values()), None)

    def oldest_of_full_group(self) -> QueueEntry | None:
        """Whoever waits longest in a group that fills a batch."""
        full = [
            next(iter(group.entries.values()))
            for group in self._groups.values()
            if len(group.entries) >= self._max_batch_size or group.nbytes >= self._max_batch_bytes
        ]
        return min(full, key=lambda entry: entry.number, default=None)

    def cut(self, first: QueueEntry, max_bytes: float) -> list[QueueEntry]:
        """Take `first`, who is the oldest of its group, and those behind it who fit into the same batch.

        Args:
            first: always taken.
            max_bytes: bytes that this batch may have, below what any may have.
        """
        max_bytes = min(max_bytes, self._max_batch_bytes)
        batch: list[QueueEntry] = []
        nbytes = 0
        for entry in self._groups[first.work.key].entries.values():
            nbytes += entry.work.nbytes
            if batch and nbytes > max_bytes:
                break
            batch.append(entry)
            if len(batch) == self._max_batch_size:
                break
        for entry in batch:
            self.leave(entry)
        return batch
