"""Ending blocking calls from another thread than theirs, as cancelling a task does for asyncio."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from poolservice_client.errors import PoolError


class Cancelled(PoolError):
    """The call was given up by who made it; never seen outside the SDK."""

    def __init__(self) -> None:
        super().__init__("this call was cancelled")


class Cancellation:
    """What a blocking call looks at to learn that nobody wants its answer any more. For any number of calls."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancelled = threading.Event()
        self._ends: dict[int, Callable[[], object]] = {}
        self._next = 0

    def cancel(self) -> None:
        """End every call that is under way, and those that are yet to come. A second time does nothing."""
        with self._lock:
            self._cancelled.set()
            ends = list(self._ends.values())
        for end in ends:
            end()

    def check(self) -> None:
        """Raise Cancelled where it was cancelled."""
        if self._cancelled.is_set():
            raise Cancelled

    def sleep(self, seconds: float) -> None:
        """Sleep, but wake to raise Cancelled where it is cancelled meanwhile."""
        self._cancelled.wait(seconds)
        self.check()

    @contextmanager
    def ending(self, end: Callable[[], object]) -> Iterator[None]:
        """Let `end` be called, from whatever thread, where it is cancelled within the block."""
        with self._lock:
            number = self._next
            self._next += 1
            self._ends[number] = end
            cancelled = self._cancelled.is_set()
        try:
            if cancelled:
                end()
            yield
        finally:
            with self._lock:
                del self._ends[number]
