"""Forks: what a client needs to go on in a process that was forked from one that has used it.

gRPC lives through a fork where it was told to before its first use (GRPC_ENABLE_FORK_SUPPORT), and where no thread is
inside it just then. So a fork waits until this process's blocking calls are back, for a moment at least; the child
leaves alone what the parent opened, and opens connections of its own with its first call. Where a call was not back,
or asyncio's gRPC was in use, which keeps a thread of its own inside gRPC, the child says what to do instead of hanging.
"""

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from poolservice_client.errors import PoolError

# A fork waits so long for calls to come back; most take milliseconds.
_QUIET_SECONDS = 2.0
# A child's first sign of life from gRPC takes milliseconds, or 3 s where a server accepts connections and is silent.
_SIGN_OF_LIFE_SECONDS = 8.0

_VARIABLE = "GRPC_ENABLE_FORK_SUPPORT"

_ADVICE = (
    'start processes by "spawn" or "forkserver", or fork before the first call of this process, which a client made '
    "earlier lives through"
)


class Forked(Protocol):
    """What has something to do in a process that was forked."""

    def after_fork(self) -> None:
        """Begin anew: locks may be held by threads that are not here, connections are the parent's."""
        ...


class _Gate:
    """Counts the blocking calls under way, and holds new ones back while the process forks."""

    def __init__(self) -> None:
        # Re-entrant: a signal's handler may fork wherever its thread stands.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._inside = 0
        self._forking = False

    def enter(self) -> None:
        with self._lock:
            while self._forking:
                self._changed.wait()
            self._inside += 1

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._forking:
                self._changed.notify_all()

    def shut(self) -> bool:
        """Hold new calls back and wait for those under way: whether all came back."""
        self._changed.acquire()
        self._forking = True
        deadline = time.monotonic() + _QUIET_SECONDS
        while self._inside and (left := deadline - time.monotonic()) > 0:
            self._changed.wait(left)
        return not self._inside

    def open(self) -> None:
        self._forking = False
        self._changed.notify_all()
        self._changed.release()


class _Process:
    """What this process knows of gRPC's state in it."""

    def __init__(self) -> None:
        self.gate = _Gate()
        self.uses_grpc = False
        self.uses_aio = False
        self.was_quiet = True
        # Why gRPC cannot be used here; "" where it can, as far as is known.
        self.obstacle = ""
        self.is_proven = True
        self.forked: weakref.WeakSet[Any] = weakref.WeakSet()
        # Ending the parent's connections in a child would take locks that nobody here can give back.
        self.inherited: list[object] = []

    def before_fork(self) -> None:
        self.was_quiet = self.gate.shut()

    def after_fork_in_parent(self) -> None:
        self.gate.open()

    def after_fork_in_child(self) -> None:
        self.gate = _Gate()
        if self.uses_aio:
            self.obstacle = (
                f"this process was forked from one in which asyncio's gRPC ran, and that ends there; {_ADVICE}"
            )
        elif self.uses_grpc and not self.was_quiet:
            self.obstacle = (
                f"this process was forked while a gRPC call of another thread was under way for longer than "
                f"{_QUIET_SECONDS:g} s, and gRPC cannot go on in it; {_ADVICE}"
            )
        # Other code of the parent may have used gRPC, too.
        self.is_proven = False
        for one in self.forked:
            one.after_fork()


_process = _Process()
os.register_at_fork(
    before=_process.before_fork,
    after_in_parent=_process.after_fork_in_parent,
    after_in_child=_process.after_fork_in_child,
)


def remember(one: Forked) -> None:
    """Call its `after_fork` in each process forked from this one, for as long as it lives."""
    _process.forked.add(one)


def leave_alone(*inherited: object) -> None:
    """Keep what the parent opened, untouched, for as long as this process lives."""
    _process.inherited.extend(inherited)


class inside:  # noqa: N801 - used as a function; a generator would cost a call more time
    """What is done within gRPC in the block: a fork waits for it, and it for a fork.

    Never twice in one thread: a fork that waits for the first would hold up the second.
    """

    __slots__ = ("_gate",)

    def __enter__(self) -> None:
        self._gate = _process.gate
        self._gate.enter()

    def __exit__(self, *_error: object) -> None:
        self._gate.leave()


@contextmanager
def opening(check_alive: Callable[[], object], *, aio: bool = False) -> Iterator[None]:
    """Open gRPC's first connection of a client within the block.

    Args:
        check_alive: makes a call and comes back whatever its outcome; asked once in a process that was forked.
        aio: whether it is asyncio's.

    Raises:
        PoolError: this process was forked in a way that gRPC does not live through.
    """
    if _process.obstacle:
        raise PoolError(_process.obstacle)
    if not _process.is_proven:
        _prove(check_alive)
    added = not _process.uses_grpc and _VARIABLE not in os.environ
    if added:
        # gRPC reads it once, with its first connection; processes that this one starts do not inherit it.
        os.environ[_VARIABLE] = "1"
    try:
        with inside():
            yield
            _process.uses_grpc = True
            _process.uses_aio = _process.uses_aio or aio
    finally:
        if added:
            os.environ.pop(_VARIABLE, None)


def _prove(check_alive: Callable[[], object]) -> None:
    # Where other code of the parent used gRPC in its own way, calls here may hang beyond any time-out.
    thread = threading.Thread(target=check_alive, name="poolservice-after-fork", daemon=True)
    thread.start()
    thread.join(_SIGN_OF_LIFE_SECONDS)
    if thread.is_alive():
        _process.obstacle = f"this process was forked from one that used gRPC, which does not work in it; {_ADVICE}"
        raise PoolError(_process.obstacle)
    _process.is_proven = True
