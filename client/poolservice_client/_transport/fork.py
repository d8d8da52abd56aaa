"""Forks: keeping clients usable in a process that was forked from one that has used them.

gRPC supports a fork only if GRPC_ENABLE_FORK_SUPPORT was set before its first use and if no thread is running gRPC code
during the fork. So a fork waits, for a limited time, until this process's blocking calls have ended. The
child does not touch the connections that the parent opened and opens its own with its first call. If a call did not
end in time, calls in the child raise an error that says what to do; otherwise they would hang. They also raise it if
the parent used gRPC's asyncio API, which keeps a thread inside gRPC.
"""

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from poolservice_client.errors import PoolError

# How long a fork waits for calls to end. Most take milliseconds.
_MAX_FORK_DELAY_SECONDS = 2.0
# How long the test call in a forked process may take: milliseconds, or 3 s if a server accepts connections and is
# silent.
_TEST_CALL_SECONDS = 8.0

_FORK_SUPPORT_VARIABLE = "GRPC_ENABLE_FORK_SUPPORT"

_ADVICE = (
    'start processes with "spawn" or "forkserver", or fork before this process makes its first call; the client itself '
    "may be created before the fork"
)


class ForkAware(Protocol):
    """An object that must be reset in a forked process."""

    def after_fork(self) -> None:
        """Reset the state: threads of the parent may hold the locks, and its connections cannot be used here."""
        ...


class _ForkLock:
    """A shared-exclusive lock: blocking calls hold it shared, a fork holds it exclusively."""

    def __init__(self) -> None:
        # Re-entrant, because a signal handler may fork while its thread holds the lock.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._calls = 0
        self._is_forking = False

    def acquire_shared(self) -> None:
        with self._lock:
            while self._is_forking:
                self._changed.wait()
            self._calls += 1

    def release_shared(self) -> None:
        with self._lock:
            self._calls -= 1
            if self._is_forking:
                self._changed.notify_all()

    def acquire_exclusive(self) -> bool:
        """Block new calls and wait for the running ones. Return True if all of them ended in time."""
        self._changed.acquire()
        self._is_forking = True
        deadline = time.monotonic() + _MAX_FORK_DELAY_SECONDS
        while self._calls and (left := deadline - time.monotonic()) > 0:
            self._changed.wait(left)
        return not self._calls

    def release_exclusive(self) -> None:
        self._is_forking = False
        self._changed.notify_all()
        self._changed.release()


class _ProcessState:
    """The state of gRPC in this process, and the objects to reset in its children."""

    def __init__(self) -> None:
        self.lock = _ForkLock()
        self.uses_grpc = False
        self.uses_grpc_aio = False
        self.calls_ended = True
        # Why gRPC cannot be used in this process; empty if it can, as far as is known.
        self.unusable_reason = ""
        self.is_tested = True
        self.registered: weakref.WeakSet[Any] = weakref.WeakSet()
        # Finalising the parent's connections would take locks that no thread of the child can release.
        self.inherited: list[object] = []

    def before_fork(self) -> None:
        self.calls_ended = self.lock.acquire_exclusive()

    def after_fork_in_parent(self) -> None:
        self.lock.release_exclusive()

    def after_fork_in_child(self) -> None:
        self.lock = _ForkLock()
        if self.uses_grpc_aio:
            self.unusable_reason = (
                "this process was forked from one that used gRPC's asyncio API, which does not survive a fork; "
                f"{_ADVICE}"
            )
        elif self.uses_grpc and not self.calls_ended:
            self.unusable_reason = (
                "this process was forked while a gRPC call of another thread was running for longer than "
                f"{_MAX_FORK_DELAY_SECONDS:g} s, and gRPC does not survive that; {_ADVICE}"
            )
        # Other code of the parent may have used gRPC without this module's lock.
        self.is_tested = False
        for one in self.registered:
            one.after_fork()


_process = _ProcessState()
os.register_at_fork(
    before=_process.before_fork,
    after_in_parent=_process.after_fork_in_parent,
    after_in_child=_process.after_fork_in_child,
)


def register(one: ForkAware) -> None:
    """Call `after_fork` of the object in each process that is forked from this one, as long as the object exists."""
    _process.registered.add(one)


def keep_inherited(*objects: object) -> None:
    """Keep objects that the parent opened alive and untouched until this process ends."""
    _process.inherited.extend(objects)


class deferred:  # noqa: N801 - used like a function; a generator-based context manager is slower per call
    """Run gRPC code in the block: a fork waits for the block to end, and the block waits for a fork.

    Blocks must not be nested in one thread: a fork that waits for the outer one would block the inner one.
    """

    __slots__ = ("_lock",)

    def __enter__(self) -> None:
        self._lock = _process.lock
        self._lock.acquire_shared()

    def __exit__(self, *_error: object) -> None:
        self._lock.release_shared()


@contextmanager
def first_use(make_test_call: Callable[[], object], *, aio: bool = False) -> Iterator[None]:
    """Open a client's first connection in the block.

    Args:
        make_test_call: makes a call and returns whatever its outcome. It runs once in a process that was forked.
        aio: whether the connection uses gRPC's asyncio API.

    Raises:
        PoolError: gRPC cannot be used in this process, because of how it was forked.
    """
    if _process.unusable_reason:
        raise PoolError(_process.unusable_reason)
    if not _process.is_tested:
        _test(make_test_call)
    added = not _process.uses_grpc and _FORK_SUPPORT_VARIABLE not in os.environ
    if added:
        # gRPC reads it once, with its first connection. Child processes must not inherit it.
        os.environ[_FORK_SUPPORT_VARIABLE] = "1"
    try:
        with deferred():
            yield
            _process.uses_grpc = True
            _process.uses_grpc_aio = _process.uses_grpc_aio or aio
    finally:
        if added:
            os.environ.pop(_FORK_SUPPORT_VARIABLE, None)


def _test(make_test_call: Callable[[], object]) -> None:
    # If other code of the parent used gRPC without fork support, calls here may hang beyond any timeout.
    thread = threading.Thread(target=make_test_call, name="poolservice-after-fork", daemon=True)
    thread.start()
    thread.join(_TEST_CALL_SECONDS)
    if thread.is_alive():
        _process.unusable_reason = f"this process was forked from one that used gRPC, which fails here; {_ADVICE}"
        raise PoolError(_process.unusable_reason)
    _process.is_tested = True
