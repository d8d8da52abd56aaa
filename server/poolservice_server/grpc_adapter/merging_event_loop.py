"""The server's event loop: uvloop's, which merges the wake-ups of gRPC into one.

grpc.aio's polling thread writes one byte to a socket per completion. Its reader on the event loop takes one byte and
then handles all completions that are ready. If several became ready together, the loop therefore calls the reader
again for each remaining byte: one loop iteration and two system calls for nothing. This loop reads those bytes at once.

Counting the waiting bytes takes one more system call, so merging pays off only while many calls are active.

The loop recognizes gRPC's reader by a private class name (see `private_names`). If grpcio renames the class, this is
uvloop's loop without changes.
"""

import functools
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVarTuple

import uvloop

if TYPE_CHECKING:
    from _typeshed import HasFileno

Arguments = TypeVarTuple("Arguments")

#: The number of active calls from which merging wake-ups pays off, measured with tests/bench/calls.py.
MERGE_WAKEUPS_FROM = 12

_POLLER = "PollerCompletionQueue"
_MAX_WAKEUP_BYTES = 4096


class EventLoop(uvloop.Loop):
    """uvloop's event loop with merged wake-ups of gRPC.

    Attributes:
        active_calls: returns the number of active gRPC calls; the gRPC server sets it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.active_calls: Callable[[], int] = int

    def add_reader(self, fd: "int | HasFileno", callback: Callable[[*Arguments], Any], *args: *Arguments) -> None:
        """Call `callback` when `fd` is readable; gRPC's reader is called once for all waiting wake-ups."""
        if isinstance(fd, socket.socket) and _is_grpc_reader(callback):
            super().add_reader(fd, self._merge_wakeups(fd, callback), *args)
        else:
            super().add_reader(fd, callback, *args)

    def _merge_wakeups(self, wakeups: socket.socket, read: Callable[..., Any]) -> Callable[..., Any]:
        def read_all(*args: Any) -> None:
            if self.active_calls() >= MERGE_WAKEUPS_FROM:
                waiting = len(wakeups.recv(_MAX_WAKEUP_BYTES, socket.MSG_PEEK))
                if waiting > 1:
                    # gRPC queues a completion before it writes its byte, so `read` finds the completions of all
                    # bytes that are dropped here.
                    wakeups.recv(waiting - 1)
            read(*args)

        return read_all


def _is_grpc_reader(callback: Callable[..., Any]) -> bool:
    """Return True for a method of grpcio's completion queue, bound or wrapped in a partial."""
    method = callback.func if isinstance(callback, functools.partial) else callback
    return type(getattr(method, "__self__", None)).__name__ == _POLLER
