"""Cancelling blocking calls from another thread, as asyncio cancels the calls of a task."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from poolservice_client.errors import PoolError


class Cancelled(PoolError):
    """The call was cancelled by its caller. It never leaves the SDK."""

    def __init__(self) -> None:
        super().__init__("this call was cancelled")


class Cancellation:
    """Cancels any number of blocking calls that were made with it. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancelled = threading.Event()
        self._callbacks: dict[int, Callable[[], object]] = {}
        self._next_key = 0

    def cancel(self) -> None:
        """Cancel all running calls and all later ones. A second time has no effect."""
        with self._lock:
            self._cancelled.set()
            callbacks = list(self._callbacks.values())
        for callback in callbacks:
            callback()

    def check(self) -> None:
        """Raise Cancelled if the calls are cancelled."""
        if self._cancelled.is_set():
            raise Cancelled

    def sleep(self, seconds: float) -> None:
        """Sleep for `seconds`, or raise Cancelled as soon as the calls are cancelled."""
        self._cancelled.wait(seconds)
        self.check()

    @contextmanager
    def on_cancel(self, callback: Callable[[], object]) -> Iterator[None]:
        """Run `callback`, in any thread, if the calls are cancelled before or within the block."""
        with self._lock:
            key = self._next_key
            self._next_key += 1
            self._callbacks[key] = callback
            cancelled = self._cancelled.is_set()
        try:
            if cancelled:
                callback()
            yield
        finally:
            with self._lock:
                del self._callbacks[key]
