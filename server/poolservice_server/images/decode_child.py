"""The child process that decodes images for `DecodeProcesses`.

    python -m poolservice_server.images.decode_child DESCRIPTOR PARENT

DESCRIPTOR is the child's end of a socket, and PARENT is the process id of the server.

A request is a JSON object with a file descriptor of shared memory, which contains a byte that becomes 1 if nobody waits
any more, the file, and space for the planes. The reply is a JSON object, too. Neither is pickled, because a hostile
file that has taken over a decoder must not be able to run code in the server.
"""

import ctypes
import faulthandler
import json
import mmap
import os
import resource
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np

from poolservice.errors import InvalidRequest
from poolservice_server.images.decoder import decode_scanned
from poolservice_server.images.scan_result import Coding, Header, Scan
from poolservice_server.stop import WorkStopped

#: The limit for a request and for a reply, in bytes.
MAX_LINE = 65_536

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Decode images until the parent closes the socket or ends."""
    descriptor, parent = int(sys.argv[1]), int(sys.argv[2])
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    # The parent handles signals to the process group: it drains its requests and then ends this process.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # The parent reports a crash. A core file of this process would contain callers' images.
    faulthandler.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    data_nbytes = _data_nbytes()
    with socket.socket(fileno=descriptor) as connection:
        while True:
            line, descriptors, _, _ = socket.recv_fds(connection, MAX_LINE, 1)
            if not line:
                return
            try:
                reply = _decode(json.loads(line), descriptors[0], data_nbytes)
            finally:
                os.close(descriptors[0])
            connection.send(json.dumps(reply).encode())


def _data_nbytes() -> int:
    """Return the size of this process's private memory in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmData:")[2].split()[0]) * 1024


def _decode(request: dict[str, Any], descriptor: int, data_nbytes: int) -> dict[str, Any]:
    memory = mmap.mmap(descriptor, 0)
    start, end = request["file"]
    scanned = Scan(
        Header(*request["header"]), [memoryview(memory)[start:end]], Coding(*request["coding"]), request["boundaries"]
    )
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (data_nbytes + request["memory"], hard))
    try:
        planes = decode_scanned(
            scanned,
            request["mode"],
            max_pixels=request["max_pixels"],
            interleaved=request["interleaved"],
            stop=lambda: memory[0] != 0,
        )
        is_interleaved = not planes.flags.c_contiguous
        stored = np.moveaxis(planes, 0, -1) if is_interleaved else planes
        np.copyto(np.ndarray(stored.shape, stored.dtype, memory, request["planes"]), stored)
    except InvalidRequest as error:
        return {"invalid": error.reason}
    except MemoryError:
        return {"memory": request["memory"]}
    except WorkStopped:
        return {"stopped": True}
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))
    return {"shape": stored.shape, "interleaved": is_interleaved}


if __name__ == "__main__":
    main()
