"""Threads in which an asyncio client reads files, and encodes and decodes images.

They are daemon threads, unlike those of `asyncio.to_thread`, which the event loop and the interpreter join before they
end. A read of a named pipe without a writer, or of a network drive that is gone, may last for ever.
"""

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar, cast

T = TypeVar("T")

# As many as `asyncio.to_thread` has.
_MAX_THREADS = min(32, (os.cpu_count() or 1) + 4)


class ReaderThreads:
    """A pool of daemon threads. Each thread is started when it is needed, and ends with the process."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the threads, which do not exist in a forked process."""
        self._lock = threading.Lock()
        self._work: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._threads = 0
        # The number of idle threads, minus the number of functions that wait for a thread.
        self._spare = 0

    async def run(self, function: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Return the result of a function that runs in a thread. If the caller is cancelled, the result is dropped."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def work() -> None:
            set_outcome: Callable[[Any], None] = future.set_result
            try:
                outcome: Any = function(*arguments, **options)
            except BaseException as error:  # noqa: BLE001 - the awaiting task raises it, whatever it is
                set_outcome, outcome = future.set_exception, error
            # A closed loop has no task that waits for the outcome.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_settle, future, set_outcome, outcome)

        self._submit(work)
        return cast(T, await future)

    def _submit(self, work: Callable[[], None]) -> None:
        with self._lock:
            if self._spare <= 0 and self._threads < _MAX_THREADS:
                # If the system cannot start a thread, this raises, and nothing has changed.
                threading.Thread(target=self._serve, name="poolservice-reader", daemon=True).start()
                self._threads += 1
            else:
                self._spare -= 1
        self._work.put(work)

    def _serve(self) -> None:
        while True:
            self._work.get()()
            with self._lock:
                self._spare += 1


def _settle(future: "asyncio.Future[Any]", set_outcome: Callable[[Any], None], outcome: object) -> None:
    if not future.done():
        set_outcome(outcome)


reader_threads = ReaderThreads()
os.register_at_fork(after_in_child=reader_threads.reset)
