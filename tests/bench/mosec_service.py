"""Start a mosec server on a free port, and announce its address once all of its processes are ready.

mosec's program in Rust speaks HTTP and collects the batches; processes with Python compute them.
"""

import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import mosec

_TIMEOUT_MILLISECONDS = 60_000
_RETRY_SECONDS = 0.02

_READY_PORT = "MOSEC_SERVER_READY_PORT"


def announce_ready() -> None:
    """Tell the first process that this one is ready; call it at the end of a worker's constructor."""
    socket.create_connection(("127.0.0.1", int(os.environ[_READY_PORT]))).close()


def serve(append_workers: Callable[[Any], None], processes: int) -> None:
    """Serve on a free port, and print one line that ends with the address.

    Args:
        append_workers: appends the workers to the server.
        processes: the number of processes that call `announce_ready`.
    """
    # mosec cannot choose a port itself.
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # mosec reads the command line, too.
    sys.argv[1:] = ["--address", "127.0.0.1", "--port", str(port), "--log-level", "error"]
    sys.argv += ["--timeout", str(_TIMEOUT_MILLISECONDS)]
    with socket.create_server(("127.0.0.1", 0)) as ready:
        os.environ[_READY_PORT] = str(ready.getsockname()[1])
        server: Any = mosec.Server()
        append_workers(server)
        threading.Thread(target=_announce, args=(ready, processes, port), daemon=True).start()
        server.run()


def _announce(ready: socket.socket, processes: int, port: int) -> None:
    """Print the address once every process is ready, and the program in Rust listens."""
    for _ in range(processes):
        connection, _ = ready.accept()
        connection.close()
    while not _listens(port):
        time.sleep(_RETRY_SECONDS)
    print(f"mosec server at 127.0.0.1:{port}", flush=True)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True
