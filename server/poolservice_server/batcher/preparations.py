"""The preparation of payloads on threads, such as the decoding of images, and the requests that run there, too."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from typing import Any, NamedTuple

from poolservice_server.batcher.execution import prepare, run_batch
from poolservice_server.batcher.outcomes import BatchOutcomes
from poolservice_server.batcher.queue_entry import QueueEntry
from poolservice_server.batcher.request import Runner
from poolservice_server.batcher.slots import Slots


class Preparation(QueueEntry):
    """A request whose payload has to be prepared.

    Attributes:
        executor: has the threads that prepare it.
        is_unbatched: whether the thread that prepares the payload runs it, too.
    """

    __slots__ = ("executor", "is_unbatched")

    executor: Executor
    is_unbatched: bool


class Prepared(NamedTuple):
    """The end of a preparation.

    Attributes:
        started: when it started, in seconds of the batcher's clock.
        seconds: how long it took.
        payload: the prepared payload, if the preparation succeeded and the request is to be batched.
        outcomes: the outcome in a list, if the preparation failed or the request is unbatched; else empty.
        compute_seconds: how long the runner took for an unbatched request.
    """

    started: float
    seconds: float = 0.0
    payload: Any = None
    outcomes: BatchOutcomes = ()
    compute_seconds: float = 0.0


class Preparations:
    """Prepares payloads on the threads of an executor, as many at a time as there are slots.

    Those that wait do so in the batcher's queues and not in the executor's, which is not fair between callers. A few
    are handed over ahead: a thread that ends a preparation takes the next of them. Otherwise it would be idle until the
    event loop gives it another one.

    Args:
        run: runs an unbatched request.
        slots: the slots that the preparations take.
        clock: seconds.
        settle: called with a preparation that ended, and its end.
    """

    def __init__(
        self,
        run: Runner,
        slots: Slots[Preparation],
        clock: Callable[[], float],
        settle: Callable[[Preparation, Prepared], None],
    ) -> None:
        self._run = run
        self._slots = slots
        self._clock = clock
        self._settle = settle
        # Being prepared, or handed over ahead.
        self._running: dict[int, Preparation] = {}
        # Those that are handed over ahead. The event loop appends, the threads take.
        self._ahead: deque[Preparation] = deque()

    def add(self, entry: Preparation) -> None:
        """Start a preparation as soon as there is a slot for it."""
        request = entry.request
        seconds = request.prepare_seconds + (request.seconds if entry.is_unbatched else 0.0)
        self._slots.append(entry, seconds)
        self._start_waiting(entry.get_loop())

    def waiting(self) -> int:
        """Return the number of entries that wait for a slot."""
        return self._slots.waiting()

    def waiting_bytes(self) -> int:
        """Return the size of the requests that wait for a slot."""
        return self._slots.waiting_bytes()

    def unsettled(self) -> Iterator[QueueEntry]:
        """Return the entries that wait for a slot or are being prepared."""
        yield from self._slots
        yield from self._running.values()

    def _start_waiting(self, loop: asyncio.AbstractEventLoop) -> None:
        while (queue := next(filter(len, self._slots.usable()), None)) is not None:
            first = queue.first()
            if first is None:
                return
            queue.next_batch(first, 0.0)
            is_ahead = self._slots.is_ahead
            is_long = self._slots.start(queue, first.seconds)
            self._running[first.number] = first
            if is_ahead:
                self._ahead.append(first)
            else:
                first.executor.submit(self._prepare, loop, first, is_long)

    def _prepare(self, loop: asyncio.AbstractEventLoop, entry: Preparation, is_long: bool) -> None:
        """Prepare an entry and then, one after the other, those that are handed over ahead, on a thread."""
        following: Preparation | None = entry
        while following is not None:
            entry, prepared = following, self._prepared(following)
            following = self._take_ahead()
            loop.call_soon_threadsafe(self._end, loop, entry, is_long, prepared, following is None)
            # Only short work is handed over ahead.
            is_long = False

    def _take_ahead(self) -> Preparation | None:
        try:
            return self._ahead.popleft()
        except IndexError:
            return None

    def _prepared(self, entry: Preparation) -> Prepared:
        """Prepare a payload and, if it is unbatched, run it."""
        started = self._clock()
        if entry.done():
            return Prepared(started)
        request = entry.request
        payload, seconds = prepare(request.payload, entry.done)
        if isinstance(payload, Exception):
            return Prepared(started, seconds, outcomes=[payload])
        if not entry.is_unbatched:
            return Prepared(started, seconds, payload)
        outcomes, compute_seconds = run_batch(self._run, request.key, [payload], entry.done, caught=BaseException)
        return Prepared(started, seconds, None, outcomes, compute_seconds)

    def _end(
        self, loop: asyncio.AbstractEventLoop, entry: Preparation, is_long: bool, prepared: Prepared, is_last: bool
    ) -> None:
        """End a preparation; `is_last` is True if its thread found no further one."""
        del self._running[entry.number]
        self._slots.end(is_long=is_long, seconds=entry.seconds)
        # One that was handed over after the thread had looked takes the thread's place.
        if is_last and (following := self._take_ahead()) is not None:
            following.executor.submit(self._prepare, loop, following, False)
        self._settle(entry, prepared)
        self._start_waiting(loop)
