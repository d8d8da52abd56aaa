"""One child process that decodes images, as its server sees it.

If it crashes while it decodes, the image is refused, because the same file would crash the next process too. If a
process is ended from outside, for example by the system when memory is short, its image is not the cause, and the call
may be retried.
"""

import contextlib
import json
import math
import mmap
import os
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import structlog

from poolservice.errors import InvalidRequest
from poolservice_server.images.decode_child import MAX_LINE
from poolservice_server.images.decoder import DecoderEnded
from poolservice_server.images.scan_result import invalid_image
from poolservice_server.stop import Stop, WorkStopped

_log = structlog.get_logger(__name__)

# The interval at which a waiting thread calls `stop`, and the time that the process then has to stop by itself.
_POLL_SECONDS = 0.02
_STOPPING_SECONDS = 0.2

# The signals of a process's own faults. All others come from outside.
_FAULTS = frozenset(
    {
        signal.SIGSEGV,
        signal.SIGBUS,
        signal.SIGABRT,
        signal.SIGILL,
        signal.SIGFPE,
        signal.SIGTRAP,
        signal.SIGSYS,
        signal.SIGXCPU,
        signal.SIGXFSZ,
    }
)

#: Why an image fails that is being decoded when the server stops.
STOPPING = "the server is stopping, and has ended its decoder processes; send the image to another server"


class DecoderProcess:
    """A child process that decodes one image at a time, and the socket to it.

    Attributes:
        connection: the socket; whoever uses the process closes it.
    """

    def __init__(self) -> None:
        self._is_killed = False
        self.connection, childs_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "poolservice_server.images.decode_child"]
        try:
            with childs_end:
                self._process = subprocess.Popen(  # noqa: S603 - the command is this program's own
                    [*command, str(childs_end.fileno()), str(os.getpid())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=(childs_end.fileno(),),
                    env={
                        **os.environ,
                        # The child imports the same packages as this process.
                        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                        # numpy must not start threads.
                        "OPENBLAS_NUM_THREADS": "1",
                    },
                )
        except OSError:
            self.connection.close()
            raise

    def is_alive(self) -> bool:
        """Return True if the process has not ended."""
        return self._process.poll() is None

    def kill(self) -> None:
        """End the process now, and wait until it has ended. The connection reports the end to a waiting thread."""
        self._is_killed = True
        self._process.kill()
        self._process.wait()

    def ask(
        self, request: dict[str, Any], descriptor: int, memory: mmap.mmap, stop: Stop, seconds: float
    ) -> dict[str, Any]:
        """Send a request and return the reply.

        Raises:
            InvalidRequest: the process crashed, or did not reply within `seconds`.
            DecoderEnded: the process was ended from outside, or by `kill`.
            WorkStopped: `stop` returned True, and the process did not notice it.
        """
        limit = time.monotonic() + seconds
        stopped_at = math.inf
        with contextlib.suppress(BrokenPipeError):
            socket.send_fds(self.connection, [json.dumps(request).encode()], [descriptor])
        while True:
            self.connection.settimeout(_POLL_SECONDS)
            try:
                line = self.connection.recv(MAX_LINE)
            except TimeoutError:
                now = time.monotonic()
                if now > stopped_at + _STOPPING_SECONDS:
                    raise WorkStopped from None
                if now > limit:
                    raise self._failed(request, f"took more than {seconds:.3g} s for") from None
                if stopped_at == math.inf and stop():
                    memory[0] = 1
                    stopped_at = now
                continue
            except ConnectionResetError:
                line = b""
            if line:
                reply: dict[str, Any] = json.loads(line)
                return reply
            raise self._ended(request)

    def _ended(self, request: dict[str, Any]) -> Exception:
        """Return the error for a process that has ended instead of replying."""
        status = self._process.wait()
        if self._is_killed:
            return DecoderEnded(STOPPING)
        if status >= 0:
            return self._failed(request, f"crashed (status {status}) on")
        name = _signal_name(-status)
        if -status in _FAULTS:
            return self._failed(request, f"crashed ({name}) on")
        _log.error("a decoder process was ended from outside", signal=name, pid=self._process.pid)
        return DecoderEnded(f"the process that decoded this image was ended from outside ({name}); retry")

    def _failed(self, request: dict[str, Any], event: str) -> InvalidRequest:
        name = request["header"][0]
        _log.error("a decoder process failed", format=name, failure=event, pid=self._process.pid)
        return invalid_image(f"the {name} decoder {event} this image; save the image again, for example as PNG")


def _signal_name(number: int) -> str:
    """Return the name of a signal, such as SIGKILL; most real-time signals have none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
