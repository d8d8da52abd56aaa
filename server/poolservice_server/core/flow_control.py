"""Flow control of a stream: how many of its requests may be in flight."""

import asyncio

# Enough to keep the device busy. A caller that does not read its responses costs the server no more than this.
MAX_STREAM_REQUESTS = 64
MAX_STREAM_BYTES = 64 * 2**20


class FlowControl:
    """The limits on a stream's requests in flight, by number and by the bytes of the requests and their responses.

    If no request is in flight, the next one may be of any size.
    """

    def __init__(self, max_requests: int = MAX_STREAM_REQUESTS, max_bytes: int = MAX_STREAM_BYTES) -> None:
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._requests = 0
        self._nbytes = 0
        self._released = asyncio.Event()

    async def acquire(self, nbytes: int) -> None:
        """Wait until a request may be in flight that takes `nbytes` with its response, then count it."""
        while self._requests and (self._requests >= self._max_requests or self._nbytes + nbytes > self._max_bytes):
            self._released.clear()
            await self._released.wait()
        self._requests += 1
        self._nbytes += nbytes

    def add(self, nbytes: int) -> None:
        """Count `nbytes` more for a request in flight, whose response is larger than expected."""
        self._nbytes += nbytes

    def release(self, nbytes: int) -> None:
        """Stop counting a request of `nbytes`, the added bytes included."""
        self._requests -= 1
        self._nbytes -= nbytes
        self._released.set()
