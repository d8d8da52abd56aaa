"""Decode images in child processes with limits on memory and time, so that a crash costs one call.

If a child crashes while it decodes, the image is refused, because the same file would crash the next child too. A child
that somebody else ends, such as the system when memory is short, says nothing about its image: the call may be retried.
"""

import contextlib
import fcntl
import json
import math
import mmap
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any, Self

import numpy as np
import structlog

from poolservice.errors import InvalidRequest
from poolservice_server.foreign_text import quote
from poolservice_server.images.color_mode import CHANNELS, ColorMode
from poolservice_server.images.decode_child import MAX_LINE
from poolservice_server.images.decode_cost import decode_cost
from poolservice_server.images.decoder import DecoderEnded
from poolservice_server.images.scan_result import Scan, invalid_image
from poolservice_server.stop import Stop, WorkStopped, never

_log = structlog.get_logger(__name__)

# The memory that a child may use in addition to twice the estimate.
_SPARE_BYTES = 64 * 2**20
# The time that a child has in addition to twenty times the estimate. It includes the start of the child.
_SPARE_SECONDS = 10.0
# The interval at which a waiting thread calls `stop`, and the time that a child then has to stop by itself.
_POLL_SECONDS = 0.02
_STOPPING_SECONDS = 0.2
_ALIGNMENT = 64

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

_STOPPING = "the server is stopping, and has ended its decoder processes; send the image to another server"


class DecodeProcesses:
    """Child processes that decode images. A child that crashes or is killed is replaced.

    Linux only. Call `close`, or use it as a context manager; the children also end when this process ends.

    Args:
        count: the number of children, which is the number of images that are decoded at the same time.
    """

    def __init__(self, count: int) -> None:
        self._children = {_Child() for _ in range(count)}
        self._is_closed = False
        self._changing = threading.Lock()
        self._idle: queue.SimpleQueue[_Child] = queue.SimpleQueue()
        for child in self._children:
            self._idle.put(child)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the children immediately. Images that are being decoded fail with DecoderEnded."""
        with self._changing:
            self._is_closed = True
            for child in self._children:
                child.kill()
            idle = []
            with contextlib.suppress(queue.Empty):
                while True:
                    idle.append(self._idle.get_nowait())
            # The children stay in the queue: a thread that gets one fails, and one that gets none would wait for ever.
            # A thread that uses a child closes the connection itself.
            for child in idle:
                child.connection.close()
                self._idle.put(child)

    def decode_scanned(
        self, scanned: Scan, mode: ColorMode, *, max_pixels: int, interleaved: bool = False, stop: Stop = never
    ) -> np.ndarray:
        """Decode an image in a child, as `images.decode_scanned` does. Blocks the calling thread.

        Raises:
            InvalidRequest: the file is damaged, crashes the decoder, or takes more memory or time than images of its
                size take.
            DecoderEnded: the child was ended from outside, or by `close`.
            WorkStopped: `stop` returned True.
        """
        steps, nbytes = decode_cost(scanned, mode)
        allowed = 2 * nbytes + _SPARE_BYTES
        file = b"".join(scanned.parts)
        height, width = scanned.header.upright
        planes_at = -(-(1 + len(file)) // _ALIGNMENT) * _ALIGNMENT
        planes_nbytes = CHANNELS[mode] * height * width * scanned.header.dtype.itemsize
        descriptor = _create_memory(planes_at + planes_nbytes)
        try:
            memory = mmap.mmap(descriptor, 0)
            memory[1 : 1 + len(file)] = file
            header, coding = scanned.header, scanned.coding
            request = {
                "file": (1, 1 + len(file)),
                "planes": planes_at,
                "header": (header.format, header.width, header.height, header.orientation, header.bits),
                "coding": coding,
                "boundaries": list(scanned.boundaries),
                "mode": mode,
                "max_pixels": max_pixels,
                "interleaved": interleaved,
                "memory": allowed,
            }
            reply = self._ask(request, descriptor, memory, stop, _SPARE_SECONDS + 20e-9 * steps)
        finally:
            os.close(descriptor)
        if "invalid" in reply:
            raise invalid_image(quote(str(reply["invalid"]), 1000))
        if "memory" in reply:
            raise invalid_image(
                f"decoding the {header.format} file takes more than {allowed} bytes, the limit for an image of its "
                "size; save the image again, for example as PNG"
            )
        if "stopped" in reply:
            raise WorkStopped
        shape = (height, width, CHANNELS[mode]) if reply["interleaved"] else (CHANNELS[mode], height, width)
        planes = np.ndarray(shape, header.dtype, memory, planes_at)
        return np.moveaxis(planes, -1, 0) if reply["interleaved"] else planes

    def _ask(
        self, request: dict[str, Any], descriptor: int, memory: mmap.mmap, stop: Stop, seconds: float
    ) -> dict[str, Any]:
        child = self._idle.get()
        try:
            if not child.is_alive():
                # It was ended while it was idle, from outside or by `close`.
                child = self._replace(child)
                if self._is_closed:
                    raise DecoderEnded(_STOPPING)
            reply = child.ask(request, descriptor, memory, stop, seconds)
        except BaseException:
            child = self._replace(child)
            raise
        finally:
            self._idle.put(child)
        return reply

    def _replace(self, child: "_Child") -> "_Child":
        with self._changing:
            child.kill()
            child.connection.close()
            if self._is_closed:
                return child
            # If the system cannot start a process now, the dead child stays, and the next call replaces it.
            replacement = _Child()
            self._children.remove(child)
            self._children.add(replacement)
            return replacement


class _Child:
    """One child process and the socket to it."""

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
            return DecoderEnded(_STOPPING)
        if status >= 0:
            return self._failed(request, f"crashed (status {status}) on")
        name = signal.Signals(-status).name
        if -status in _FAULTS:
            return self._failed(request, f"crashed ({name}) on")
        _log.error("a decoder process was ended from outside", signal=name, pid=self._process.pid)
        return DecoderEnded(f"the process that decoded this image was ended from outside ({name}); retry")

    def _failed(self, request: dict[str, Any], event: str) -> InvalidRequest:
        name = request["header"][0]
        _log.error("a decoder process failed", format=name, failure=event, pid=self._process.pid)
        return invalid_image(f"the {name} decoder {event} this image; save the image again, for example as PNG")


def _create_memory(nbytes: int) -> int:
    """Return a descriptor of anonymous shared memory whose size cannot be changed."""
    descriptor = os.memfd_create("image", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, nbytes)
    # A child that shrinks the memory would crash the server when it reads the planes.
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return descriptor
