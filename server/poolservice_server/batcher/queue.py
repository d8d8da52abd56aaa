"""The queue of waiting requests, in order of arrival and by batch key."""

import asyncio
from collections.abc import Callable, Hashable, Iterator

from poolservice_server.batcher.admission import Permit
from poolservice_server.batcher.request import Completed, Request


class QueueEntry(asyncio.Future[Completed]):
    """An accepted request and the future that its caller awaits.

    They are one object because every call needs both. A subclass of Future notices its cancellation immediately;
    a done-callback would cost every request a scheduled call of the event loop.
    """

    __slots__ = ("_on_cancel", "arrived", "number", "permit", "request")

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
        self._on_cancel = on_cancel

    def cancel(self, msg: object = None) -> bool:
        """Cancel the request because its caller left."""
        if not super().cancel(msg):
            return False
        self._on_cancel(self)
        return True


class _KeyQueue:
    """The waiting entries of one key, by number."""

    __slots__ = ("entries", "nbytes")

    def __init__(self) -> None:
        self.entries: dict[int, QueueEntry] = {}
        self.nbytes = 0


class Queue:
    """The entries that wait. The key of the oldest entry runs next, so that no key starves.

    Args:
        max_batch_size: largest number of entries in a batch.
        max_batch_bytes: largest size of a batch; an entry that is larger is a batch by itself.
    """

    def __init__(self, *, max_batch_size: int, max_batch_bytes: int) -> None:
        self._max_batch_size = max_batch_size
        self._max_batch_bytes = max_batch_bytes
        # By number, which is the order of arrival.
        self._entries: dict[int, QueueEntry] = {}
        self._by_key: dict[Hashable, _KeyQueue] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[QueueEntry]:
        return iter(self._entries.values())

    def __contains__(self, entry: QueueEntry) -> bool:
        return entry.number in self._entries

    def append(self, entry: QueueEntry) -> None:
        """Add an entry at the end."""
        request = entry.request
        self._entries[entry.number] = entry
        same_key = self._by_key.get(request.key)
        if same_key is None:
            same_key = self._by_key[request.key] = _KeyQueue()
        same_key.entries[entry.number] = entry
        same_key.nbytes += request.nbytes

    def remove(self, entry: QueueEntry) -> None:
        """Remove an entry, wherever it is in the queue."""
        request = entry.request
        del self._entries[entry.number]
        same_key = self._by_key[request.key]
        del same_key.entries[entry.number]
        same_key.nbytes -= request.nbytes
        if not same_key.entries:
            del self._by_key[request.key]

    def oldest(self) -> QueueEntry | None:
        """Return the oldest entry, or None if the queue is empty."""
        return next(iter(self._entries.values()), None)

    def oldest_of_full_batch(self) -> QueueEntry | None:
        """Return the oldest entry among the keys whose entries fill a batch, or None if there is no such key."""
        full = [
            next(iter(same_key.entries.values()))
            for same_key in self._by_key.values()
            if len(same_key.entries) >= self._max_batch_size or same_key.nbytes >= self._max_batch_bytes
        ]
        return min(full, key=lambda entry: entry.number, default=None)

    def next_batch(self, first: QueueEntry, max_bytes: float) -> list[QueueEntry]:
        """Remove and return the batch that starts with `first`: later entries of its key join it while they fit.

        Args:
            first: the oldest entry of its key; it is taken whatever its size.
            max_bytes: size limit for this batch, in addition to `max_batch_bytes`.
        """
        max_bytes = min(max_bytes, self._max_batch_bytes)
        batch: list[QueueEntry] = []
        nbytes = 0
        for entry in self._by_key[first.request.key].entries.values():
            nbytes += entry.request.nbytes
            if batch and nbytes > max_bytes:
                break
            batch.append(entry)
            if len(batch) == self._max_batch_size:
                break
        for entry in batch:
            self.remove(entry)
        return batch
