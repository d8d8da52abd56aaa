"""Decode images in child processes with limits on memory and time, so that a crash costs one call."""

import contextlib
import fcntl
import mmap
import os
import queue
import threading
from typing import Any, Self

import numpy as np

from poolservice_server.foreign_text import quote
from poolservice_server.images.color_mode import CHANNELS, ColorMode
from poolservice_server.images.decode_cost import decode_cost
from poolservice_server.images.decoder import DecoderEnded
from poolservice_server.images.decoder_process import STOPPING, DecoderProcess
from poolservice_server.images.scan_result import Scan, invalid_image
from poolservice_server.stop import Stop, WorkStopped, never

# The memory that a child may use in addition to twice the estimate.
_SPARE_BYTES = 64 * 2**20
# The time that a child has in addition to twenty times the estimate. It includes the start of the child.
_SPARE_SECONDS = 10.0
_ALIGNMENT = 64


class DecodeProcesses:
    """Child processes that decode images. A child that crashes or is killed is replaced.

    Linux only. Call `close`, or use it as a context manager; the children also end when this process ends.

    Args:
        count: the number of children, which is the number of images that are decoded at the same time.
    """

    def __init__(self, count: int) -> None:
        self._children = {DecoderProcess() for _ in range(count)}
        self._is_closed = False
        self._changing = threading.Lock()
        self._idle: queue.SimpleQueue[DecoderProcess] = queue.SimpleQueue()
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
                    raise DecoderEnded(STOPPING)
            reply = child.ask(request, descriptor, memory, stop, seconds)
        except BaseException:
            child = self._replace(child)
            raise
        finally:
            self._idle.put(child)
        return reply

    def _replace(self, child: DecoderProcess) -> DecoderProcess:
        with self._changing:
            child.kill()
            child.connection.close()
            if self._is_closed:
                return child
            # If the system cannot start a process now, the dead child stays, and the next call replaces it.
            replacement = DecoderProcess()
            self._children.remove(child)
            self._children.add(replacement)
            return replacement


def _create_memory(nbytes: int) -> int:
    """Return a descriptor of anonymous shared memory whose size cannot be changed."""
    descriptor = os.memfd_create("image", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, nbytes)
    # A child that shrinks the memory would crash the server when it reads the planes.
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return descriptor
