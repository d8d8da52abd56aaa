"""A minimal HTTP/1.1 client for load generation: persistent connections, one request at a time on each of them.

It does less per call than any HTTP library, so that a server behind it is not slowed down by its client.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

_END_OF_HEADERS = b"\r\n\r\n"
_CONTENT_LENGTH = b"content-length:"


class HttpConnection(asyncio.Protocol):
    """One connection. Open it with `loop.create_connection`.

    Args:
        host: the value of the Host header.
        path: the path of every request.
    """

    def __init__(self, host: str, path: str) -> None:
        self._head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: %d\r\n\r\n"
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        # The size of the response with its headers, and where its body starts; 0 until the headers have arrived.
        self._expected = self._body_start = 0
        self._response: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def call(self, body: bytes) -> Awaitable[bytes]:
        """Send a request and return the body of its response.

        Raises:
            ConnectionError: the response is an error, or the connection is lost.
        """
        if self._transport is None:
            raise ConnectionError("the connection is not open")
        self._expected = 0
        self._received.clear()
        self._response = asyncio.get_running_loop().create_future()
        self._transport.writelines(((self._head % len(body)).encode(), body))
        return self._response

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._received += data
        if not self._expected:
            end = self._received.find(_END_OF_HEADERS)
            if end < 0:
                return
            self._read_headers(bytes(self._received[:end]), end + len(_END_OF_HEADERS))
        if len(self._received) >= self._expected and self._response is not None and not self._response.done():
            self._response.set_result(bytes(self._received[self._body_start :]))

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._transport = None
        self._fail(f"the connection was lost: {exc}")

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()

    def _read_headers(self, headers: bytes, body_start: int) -> None:
        self._body_start = body_start
        lines = headers.lower().split(b"\r\n")
        lengths = [line[len(_CONTENT_LENGTH) :] for line in lines if line.startswith(_CONTENT_LENGTH)]
        if b" 200 " not in lines[0] or not lengths:
            self._fail(f"unexpected response: {headers!r}")
            return
        self._expected = body_start + int(lengths[0])

    def _fail(self, reason: str) -> None:
        if self._response is not None and not self._response.done():
            self._response.set_exception(ConnectionError(reason))


@asynccontextmanager
async def http_calls(address: str, path: str, connections: int) -> AsyncIterator[list[Any]]:
    """Open connections and yield the `call` method of each."""
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    opened = [
        (await loop.create_connection(lambda: HttpConnection(address, path), host, int(port)))[1]
        for _ in range(connections)
    ]
    try:
        yield [connection.call for connection in opened]
    finally:
        for connection in opened:
            connection.close()
