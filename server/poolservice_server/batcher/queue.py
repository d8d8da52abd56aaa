"""The queue of waiting requests: fair between callers, in order of arrival for each caller, and by batch key."""

import heapq
from collections.abc import Hashable, Iterable, Iterator
from typing import Generic, TypeVar

from poolservice_server.batcher.queue_entry import QueueEntry

# What every request costs the server besides its estimated work: about this many seconds. It is a power of two, so that
# sums of it are exact.
REQUEST_SECONDS = 2.0**-13

# The heap may hold this many outdated items, and as many again as there are callers, before it is rebuilt.
_MAX_OUTDATED = 64

E = TypeVar("E", bound=QueueEntry)


class _Flow(Generic[E]):
    """The waiting entries of one caller.

    Attributes:
        entries: by number, in order of arrival.
        served: the virtual time until which the caller has been served.
        finish: the virtual time at which its first entry would be finished.
    """

    __slots__ = ("entries", "finish", "served")

    def __init__(self, served: float) -> None:
        self.entries: dict[int, E] = {}
        self.served = served
        self.finish = 0.0


class _KeyQueue(Generic[E]):
    """The waiting entries of one key, by number."""

    __slots__ = ("entries", "nbytes")

    def __init__(self) -> None:
        self.entries: dict[int, E] = {}
        self.nbytes = 0


class Queue(Generic[E]):
    """The entries that wait, in the order of self-clocked fair queueing (Golestani, INFOCOM 1994).

    Virtual time advances with the work that is taken from the queue. Each caller's first entry has a finish time: the
    virtual time until which the caller has been served, plus the entry's work. The entry with the earliest finish time
    runs next, and virtual time becomes its finish time. So callers that wait get equal shares of the work, however many
    requests each of them has, and a new caller's first request waits for one request of each other caller at most, if
    those take as long. Unlike in start-time fair queueing, a caller without entries has no state that must be kept.

    A batch takes further entries with the key of its first entry, in the same order, while they fit. They count as
    work of their callers, too.

    Args:
        max_batch_size: largest number of entries in a batch.
        max_batch_bytes: largest size of a batch; an entry that is larger is a batch by itself.

    Attributes:
        nbytes: the size of all entries.
    """

    def __init__(self, *, max_batch_size: int, max_batch_bytes: float) -> None:
        self._max_batch_size = max_batch_size
        self._max_batch_bytes = max_batch_bytes
        self.nbytes = 0
        # By number, which is the order of arrival.
        self._entries: dict[int, E] = {}
        self._by_key: dict[Hashable, _KeyQueue[E]] = {}
        self._flows: dict[str, _Flow[E]] = {}
        self._virtual_time = 0.0
        # A heap of (finish time, number of the first entry, flow). It has an item for the first entry of each flow, and
        # items that are outdated because another entry is the first one now, or its finish time has changed.
        self._first_entries: list[tuple[float, int, _Flow[E]]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[E]:
        return iter(self._entries.values())

    def append(self, entry: E) -> None:
        """Add an entry at the end of its caller's entries."""
        request = entry.request
        number = entry.number
        entry.queue = self
        self._entries[number] = entry
        same_key = self._by_key.get(request.key)
        if same_key is None:
            same_key = self._by_key[request.key] = _KeyQueue()
        same_key.entries[number] = entry
        same_key.nbytes += request.nbytes
        self.nbytes += request.nbytes
        flow = self._flows.get(request.caller)
        if flow is None:
            flow = self._flows[request.caller] = _Flow(self._virtual_time)
            flow.entries[number] = entry
            self._push(flow, entry)
        else:
            flow.entries[number] = entry

    def remove(self, entry: QueueEntry) -> None:
        """Remove an entry, wherever it is in the queue."""
        flow = self._flows[entry.request.caller]
        self._remove(entry, flow)
        if flow.entries:
            first = next(iter(flow.entries.values()))
            if first.number > entry.number:
                self._push(flow, first)

    def oldest(self) -> E | None:
        """Return the oldest entry, or None if the queue is empty."""
        return next(iter(self._entries.values()), None)

    def first(self) -> E | None:
        """Return the entry that runs next, or None if the queue is empty."""
        if len(self._flows) == 1:
            return next(iter(self._entries.values()))
        heap = self._first_entries
        while heap:
            finish, number, flow = heap[0]
            entry = flow.entries.get(number)
            if entry is not None and finish == flow.finish and next(iter(flow.entries)) == number:
                return entry
            heapq.heappop(heap)
        return None

    def oldest_of_full_batch(self) -> E | None:
        """Return the oldest entry among the keys whose entries fill a batch, or None if there is no such key."""
        full = [
            next(iter(same_key.entries.values()))
            for same_key in self._by_key.values()
            if len(same_key.entries) >= self._max_batch_size or same_key.nbytes >= self._max_batch_bytes
        ]
        return min(full, key=lambda entry: entry.number, default=None)

    def next_batch(self, first: E, max_bytes: float) -> list[E]:
        """Remove and return the batch that starts with `first`: other entries of its key join it while they fit.

        Args:
            first: it is taken whatever its size.
            max_bytes: size limit for this batch, in addition to `max_batch_bytes`.
        """
        batch = self._fitting(first, min(max_bytes, self._max_batch_bytes))
        flows = self._flows
        if len(flows) == 1:
            (flow,) = flows.values()
            for entry in batch:
                flow.served += entry.seconds + REQUEST_SECONDS
                self._remove(entry, flow)
            if flow.entries:
                self._virtual_time = flow.served
                self._push(flow, next(iter(flow.entries.values())))
            return batch
        self._virtual_time = max(
            self._virtual_time, flows[first.request.caller].served + first.seconds + REQUEST_SECONDS
        )
        served = set()
        for entry in batch:
            flow = flows[entry.request.caller]
            flow.served += entry.seconds + REQUEST_SECONDS
            served.add(flow)
            self._remove(entry, flow)
        for flow in served:
            if flow.entries:
                self._push(flow, next(iter(flow.entries.values())))
        return batch

    def _fitting(self, first: E, max_bytes: float) -> list[E]:
        """Return the entries of the batch that starts with `first`."""
        same_key = self._by_key[first.request.key]
        everything_fits = len(same_key.entries) <= self._max_batch_size and same_key.nbytes <= max_bytes
        candidates: Iterable[E] = same_key.entries.values()
        if not everything_fits and len(self._flows) > 1:
            candidates = self._in_fair_order(first, same_key)
        batch = [first]
        nbytes = first.request.nbytes
        for entry in candidates:
            if entry is first:
                continue
            nbytes += entry.request.nbytes
            if nbytes > max_bytes or len(batch) == self._max_batch_size:
                break
            batch.append(entry)
        return batch

    def _in_fair_order(self, first: E, same_key: _KeyQueue[E]) -> list[E]:
        """Return the entries of a key by finish time, without `first`, no more than a batch can hold."""
        finish: dict[str, float] = {}
        by_finish = []
        for entry in same_key.entries.values():
            caller = entry.request.caller
            served = finish.get(caller)
            if served is None:
                served = self._flows[caller].served
            finish[caller] = served = served + entry.seconds + REQUEST_SECONDS
            if entry is not first:
                by_finish.append((served, entry.number, entry))
        return [entry for _, _, entry in heapq.nsmallest(self._max_batch_size, by_finish)]

    def _remove(self, entry: QueueEntry, flow: _Flow[E]) -> None:
        request = entry.request
        number = entry.number
        entry.queue = None
        del self._entries[number]
        same_key = self._by_key[request.key]
        del same_key.entries[number]
        same_key.nbytes -= request.nbytes
        self.nbytes -= request.nbytes
        if not same_key.entries:
            del self._by_key[request.key]
        del flow.entries[number]
        if not flow.entries:
            del self._flows[request.caller]
            if not self._flows:
                # Nobody waits, so nobody is ahead of anybody.
                self._virtual_time = 0.0
                self._first_entries.clear()

    def _push(self, flow: _Flow[E], first: E) -> None:
        """Compute the finish time of a flow's first entry, which has changed, and add it to the heap."""
        flow.finish = flow.served + first.seconds + REQUEST_SECONDS
        heap = self._first_entries
        heapq.heappush(heap, (flow.finish, first.number, flow))
        if len(heap) > 2 * len(self._flows) + _MAX_OUTDATED:
            heap[:] = [(flow.finish, next(iter(flow.entries)), flow) for flow in self._flows.values()]
            heapq.heapify(heap)
