"""The server's connections, closed before gRPC's core shuts down.

The core cancels calls that arrive while it shuts down. Their callers see CANCELLED, which no retry policy repeats. If
the connections end first, they see UNAVAILABLE. grpcio cannot close connections, so this module finds their sockets
among the process's file descriptors; where there is no /proc it closes nothing.
"""

import asyncio
import contextlib
import os
import socket
import stat
import time
from pathlib import Path

_DESCRIPTORS = Path("/proc/self/fd")

# The core closes a connection as soon as it reads its end.
_LONGEST_SECONDS = 0.5
_INTERVAL_SECONDS = 0.005


async def close_connections(address: str) -> None:
    """Stop listening at `address`, HOST:PORT or unix:PATH, and wait until the core has closed the connections to it."""
    deadline = time.monotonic() + _LONGEST_SECONDS
    # Nothing tells when the core has closed a connection.
    while _close(address) and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(_INTERVAL_SECONDS)


def _close(address: str) -> int:
    """End the sockets at `address`; return how many of them are still connected."""
    if not _DESCRIPTORS.is_dir():
        return 0
    return sum(_close_one(int(entry.name), address) for entry in list(_DESCRIPTORS.iterdir()))


def _close_one(descriptor: int, address: str) -> bool:
    """End one socket, if it is one at `address`; return True if it is connected."""
    # The descriptor may be closed meanwhile.
    with contextlib.suppress(OSError):
        # A copy of another kind of descriptor would stay open, because no socket can be made of it.
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            return False
        with socket.socket(fileno=os.dup(descriptor)) as copy:
            if not _is_bound_to(copy, address):
                return False
            if copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                _stop_listening(descriptor)
                return False
            copy.shutdown(socket.SHUT_RD)
            return True
    return False


def _stop_listening(descriptor: int) -> None:
    """Close a listening socket of the core, and leave one in its place that nobody can reach.

    The core would log an error if it could not accept connections, and would close the descriptor of a file that is not
    its own if this one was free.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as unreachable:
        unreachable.setblocking(False)
        unreachable.bind(b"")
        unreachable.listen()
        os.dup2(unreachable.fileno(), descriptor, inheritable=False)


def _is_bound_to(endpoint: socket.socket, address: str) -> bool:
    if endpoint.type != socket.SOCK_STREAM:
        return False
    if endpoint.family in (socket.AF_INET, socket.AF_INET6):
        return str(endpoint.getsockname()[1]) == address.rpartition(":")[2]
    return endpoint.family == socket.AF_UNIX and endpoint.getsockname() == address.removeprefix("unix:")
