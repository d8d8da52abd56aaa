"""An event loop that many completions of gRPC wake up once.

grpc.aio's own thread writes a byte to a socket for each completion. Its reader on the event loop takes one byte and
then all completions that are there, so where many come together it is called again for each of them, a turn of the
loop and two system calls, for nothing. Here the bytes that have come are taken together.

To look how many there are is one system call more, which pays only where there are several: in a crowd of calls.
The reader is known by a private name of grpcio's; where it is another one, this is uvloop's loop and no more.
"""

import functools
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVarTuple

import uvloop

if TYPE_CHECKING:
    from _typeshed import HasFileno

Arguments = TypeVarTuple("Arguments")

#: Calls under way from which it pays, by tests/bench/calls.py.
CROWD = 12

_POLLER = "PollerCompletionQueue"
_MOST_BYTES = 4096


class EventLoop(uvloop.Loop):
    """uvloop's event loop, with gRPC's wake-ups taken together.

    Attributes:
        calls: how many calls of gRPC are under way, by whoever serves them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: Callable[[], int] = int

    def add_reader(self, fd: "int | HasFileno", callback: Callable[[*Arguments], Any], *args: *Arguments) -> None:
        """As every loop's; gRPC's reader is called once for what has come together."""
        if isinstance(fd, socket.socket) and _is_pollers(callback):
            super().add_reader(fd, self._taking_together(fd, callback), *args)
        else:
            super().add_reader(fd, callback, *args)

    def _taking_together(self, wakeups: socket.socket, read: Callable[..., Any]) -> Callable[..., Any]:
        def read_all(*args: Any) -> None:
            if self.calls() >= CROWD:
                come = len(wakeups.recv(_MOST_BYTES, socket.MSG_PEEK))
                if come > 1:
                    # Their completions are there already: a byte is written after its completion was put there.
                    wakeups.recv(come - 1)
            read(*args)

        return read_all


def _is_pollers(callback: Callable[..., Any]) -> bool:
    """Whether it is a bound method of grpcio's queue of completions, with some arguments given."""
    method = callback.func if isinstance(callback, functools.partial) else callback
    return type(getattr(method, "__self__", None)).__name__ == _POLLER
