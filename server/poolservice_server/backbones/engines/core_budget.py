"""The cores that the runs of all backbones share."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class CoreBudget:
    """Lets runs wait until as many cores are free as they have threads, in the order of their arrival.

    Args:
        cores: the number of cores. A run with more threads takes all of them.
    """

    def __init__(self, cores: int) -> None:
        self._cores = cores
        self._free = cores
        self._lock = threading.Lock()
        self._waiting: deque[tuple[int, threading.Event]] = deque()

    @property
    def waiting(self) -> int:
        """The number of runs that wait for cores."""
        return len(self._waiting)

    @contextmanager
    def take(self, threads: int) -> Iterator[None]:
        """Wait for cores, and give them back at the end of the block."""
        cores = min(threads, self._cores)
        with self._lock:
            admitted = not self._waiting and cores <= self._free
            if admitted:
                self._free -= cores
            else:
                turn = threading.Event()
                self._waiting.append((cores, turn))
        if not admitted:
            turn.wait()
        try:
            yield
        finally:
            self._give_back(cores)

    def _give_back(self, cores: int) -> None:
        with self._lock:
            self._free += cores
            while self._waiting and self._waiting[0][0] <= self._free:
                cores, turn = self._waiting.popleft()
                self._free -= cores
                turn.set()
