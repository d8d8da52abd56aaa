"""The line of waiting work: in the order of arrival, and by group."""

import asyncio
from collections.abc import Callable, Hashable, Iterator

from poolservice_server.batcher.admission import Place
from poolservice_server.batcher.work import Ran, Work


class Waiter(asyncio.Future[Ran]):
    """An accepted item and the future that its caller awaits, in one object since there is one for every call.

    A subclass learns of its cancellation at once, where a done-callback would cost a turn of the loop for every item.
    """

    __slots__ = ("_on_cancel", "arrived", "number", "place", "work")

    def __init__(
        self,
        work: Work,
        place: Place,
        number: int,
        arrived: float,
        *,
        on_cancel: Callable[["Waiter"], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(loop=loop)
        self.work = work
        self.place = place
        self.number = number
        self.arrived = arrived
        self._on_cancel = on_cancel

    def cancel(self, msg: object = None) -> bool:
        """The caller left."""
        if not super().cancel(msg):
            return False
        self._on_cancel(self)
        return True


class _Group:
    """The waiting items of one key, by number."""

    __slots__ = ("nbytes", "waiters")

    def __init__(self) -> None:
        self.waiters: dict[int, Waiter] = {}
        self.nbytes = 0


class Line:
    """Who waits. The group of whoever waits longest is the next to run, so that none starves.

    Args:
        max_batch_size: items in a batch at most.
        max_batch_bytes: bytes in a batch at most; an item that has more by itself is a batch by itself.
    """

    def __init__(self, *, max_batch_size: int, max_batch_bytes: int) -> None:
        self._max_batch_size = max_batch_size
        self._max_batch_bytes = max_batch_bytes
        # By number, which is the order of arrival.
        self._waiters: dict[int, Waiter] = {}
        self._groups: dict[Hashable, _Group] = {}

    def __len__(self) -> int:
        return len(self._waiters)

    def __iter__(self) -> Iterator[Waiter]:
        return iter(self._waiters.values())

    def __contains__(self, waiter: Waiter) -> bool:
        return waiter.number in self._waiters

    def join(self, waiter: Waiter) -> None:
        """Stand at the end of the line."""
        work = waiter.work
        self._waiters[waiter.number] = waiter
        group = self._groups.get(work.key)
        if group is None:
            group = self._groups[work.key] = _Group()
        group.waiters[waiter.number] = waiter
        group.nbytes += work.nbytes

    def leave(self, waiter: Waiter) -> None:
        """Step out of the line, from anywhere in it."""
        work = waiter.work
        del self._waiters[waiter.number]
        group = self._groups[work.key]
        del group.waiters[waiter.number]
        group.nbytes -= work.nbytes
        if not group.waiters:
            del self._groups[work.key]

    def oldest(self) -> Waiter | None:
        """Whoever waits longest."""
        return next(iter(self._waiters.values()), None)

    def oldest_of_full_group(self) -> Waiter | None:
        """Whoever waits longest in a group that fills a batch."""
        full = [
            next(iter(group.waiters.values()))
            for group in self._groups.values()
            if len(group.waiters) >= self._max_batch_size or group.nbytes >= self._max_batch_bytes
        ]
        return min(full, key=lambda waiter: waiter.number, default=None)

    def cut(self, first: Waiter, max_bytes: float) -> list[Waiter]:
        """Take `first`, who is the oldest of its group, and those behind it who fit into the same batch.

        Args:
            first: always taken.
            max_bytes: bytes that this batch may have, below what any may have.
        """
        max_bytes = min(max_bytes, self._max_batch_bytes)
        batch: list[Waiter] = []
        nbytes = 0
        for waiter in self._groups[first.work.key].waiters.values():
            nbytes += waiter.work.nbytes
            if batch and nbytes > max_bytes:
                break
            batch.append(waiter)
            if len(batch) == self._max_batch_size:
                break
        for waiter in batch:
            self.leave(waiter)
        return batch
