"""The private channel on which a supervisor asks a worker for its metrics: a socket pair.

A request is one byte. The response is its size in four bytes, and the metrics (see `families.encode`).
"""

import asyncio
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress

import structlog
from prometheus_client import Metric

from poolservice_server.metrics import families
from poolservice_server.metrics.families import Families

_log = structlog.get_logger(__name__)

_REQUEST = b"?"
_SIZE = struct.Struct("!I")

# A worker's metrics take some 50 KB.
_MAX_RESPONSE_BYTES = 16 * 2**20


def answer_scrapes(descriptor: int, collect: Callable[[], Iterable[Metric]]) -> None:
    """Answer the requests of the supervisor on a thread, until it ends.

    Args:
        descriptor: the worker's end of the channel, which stays open.
        collect: returns the worker's metrics.
    """
    channel = socket.socket(fileno=os.dup(descriptor))

    def run() -> None:
        # The worker ends by itself if the supervisor has ended.
        with channel, suppress(ConnectionError):
            while channel.recv(1):
                try:
                    page = families.encode(collect())
                except Exception:  # noqa: BLE001 - whatever fails, the next scrape must be answered
                    _log.exception("cannot collect the metrics")
                    # The supervisor leaves this worker out of the scrape.
                    page = b""
                channel.sendall(_SIZE.pack(len(page)) + page)

    threading.Thread(target=run, name="metrics", daemon=True).start()


class ScrapeChannel:
    """The supervisor's end of a worker's channel. Use it on one event loop only.

    A worker may be stopped in the middle of a response, and go on minutes later. So a request is never given up: while
    one is unanswered there is no other, and its response is not used by a later scrape, because it may be old.

    Args:
        number: the worker's number.
        pid: the id of its process, for the log.
        channel: the socket, which is closed by `close`.
    """

    def __init__(self, number: int, pid: int | None, channel: socket.socket) -> None:
        self._number = number
        self._pid = pid
        self._channel = channel
        channel.setblocking(False)
        self._response: asyncio.Task[Families | None] | None = None
        self._is_late = False
        self._is_stuck = False

    async def collect(self, seconds: float) -> Families | None:
        """Return the worker's metrics, or None if it does not answer within this time, or did not the last time."""
        if self._response is None or self._response.done():
            self._response = asyncio.create_task(self._ask())
            self._is_late = False
        elif self._is_late:
            # A stuck worker delays one scrape only.
            return None
        response = self._response
        done, _ = await asyncio.wait((response,), timeout=seconds)
        if not done:
            self._is_late = True
            self._log_stuck(is_stuck=True)
            return None
        metrics = None if response.cancelled() else response.result()
        if metrics is not None:
            self._log_stuck(is_stuck=False)
        return metrics

    def close(self) -> None:
        """Stop waiting for the worker, and close the socket."""
        if self._response is None or self._response.done():
            self._channel.close()
            return
        self._response.cancel()
        # Only then has the event loop stopped waiting for the socket.
        self._response.add_done_callback(lambda _: self._channel.close())

    def _log_stuck(self, *, is_stuck: bool) -> None:
        """Log that the worker stopped answering, or answers again, once for each change."""
        if is_stuck == self._is_stuck:
            return
        self._is_stuck = is_stuck
        if is_stuck:
            _log.warning("a worker does not answer", worker=self._number, pid=self._pid)
        else:
            _log.info("a worker answers again", worker=self._number, pid=self._pid)

    async def _ask(self) -> Families | None:
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_sendall(self._channel, _REQUEST)
            (size,) = _SIZE.unpack(await self._receive(_SIZE.size))
            if size > _MAX_RESPONSE_BYTES:
                raise ValueError(f"{size} bytes of metrics")
            return families.decode(await self._receive(size))
        except ValueError as error:
            _log.error("a worker has sent no metrics", worker=self._number, reason=str(error))
        except OSError:
            # The worker has ended, which the supervisor notices and logs.
            pass
        return None

    async def _receive(self, size: int) -> bytes:
        """Return exactly `size` bytes.

        Raises:
            ConnectionError: the worker has ended.
        """
        loop = asyncio.get_running_loop()
        received = bytearray()
        while len(received) < size:
            data = await loop.sock_recv(self._channel, size - len(received))
            if not data:
                raise ConnectionResetError
            received += data
        return bytes(received)
