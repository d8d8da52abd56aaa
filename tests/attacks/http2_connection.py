"""An HTTP/2 connection that sends the frames it is told to send, also those that no gRPC client would send.

It compresses no headers, and asks the server to compress none, so that a status is found in the bytes of a frame.
"""

import asyncio
import re
import struct
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

DATA, HEADERS, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 8, 9
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4

Header = tuple[bytes, bytes]

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEADER_TABLE_SIZE, _INITIAL_WINDOW_SIZE = 1, 4
_DEFAULT_WINDOW = 65535
_FRAME_BYTES = 16384
_FRAME_HEAD_BYTES = 9

_STATUS = re.compile(rb"grpc-status(?:\x01(\d)|\x02(\d\d))")


def frame(frame_type: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return an encoded frame."""
    return struct.pack(">I", len(payload))[1:] + bytes([frame_type, flags]) + struct.pack(">I", stream) + payload


def header_block(headers: Iterable[Header]) -> bytes:
    """Return headers in HPACK's literal form, without indexing and without Huffman codes."""
    return b"".join(b"\x00" + _string(name) + _string(value) for name, value in headers)


def grpc_message(payload: bytes, length: int | None = None) -> bytes:
    """Return `payload` with gRPC's five bytes before it, which announce `length` bytes (default: all)."""
    return b"\x00" + struct.pack(">I", len(payload) if length is None else length) + payload


def _string(value: bytes) -> bytes:
    if len(value) < 127:
        return bytes([len(value)]) + value
    encoded, rest = bytearray([127]), len(value) - 127
    while rest >= 128:
        encoded.append(rest % 128 + 128)
        rest //= 128
    encoded.append(rest)
    return bytes(encoded) + value


class Stream:
    """What the server has sent on one stream.

    Attributes:
        nbytes: bytes of DATA frames.
        status: the gRPC status, or None.
        reset: the error code of the RST_STREAM frame, or None.
        trailers: the bytes of the HEADERS frame that has the status.
        received: set when a DATA frame has arrived, or the stream has ended.
        ended: set when the server has ended or reset the stream, or closed the connection.
    """

    def __init__(self) -> None:
        self.nbytes = 0
        self.status: int | None = None
        self.reset: int | None = None
        self.trailers = b""
        self.received = asyncio.Event()
        self.ended = asyncio.Event()

    def handle(self, frame_type: int, flags: int, payload: bytes) -> None:
        """Take note of a frame."""
        if frame_type == DATA:
            self.nbytes += len(payload)
            self.received.set()
        elif frame_type == HEADERS and (found := _STATUS.search(payload)):
            self.status = int(found[1] or found[2])
            self.trailers = payload
        elif frame_type == RST_STREAM:
            self.reset = struct.unpack(">I", payload)[0]
        if frame_type == RST_STREAM or (frame_type in (DATA, HEADERS) and flags & END_STREAM):
            self.received.set()
            self.ended.set()


class Http2Connection:
    """An open connection; create it with `connect`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, authority: bytes) -> None:
        self._reader = reader
        self._writer = writer
        self._authority = authority
        self._next_stream = 1
        self._initial_send_window: int = _DEFAULT_WINDOW
        self._send_windows: dict[int, int] = defaultdict(lambda: self._initial_send_window)
        self._send_windows[0] = _DEFAULT_WINDOW
        self._window_opened = asyncio.Event()
        self.streams: dict[int, Stream] = defaultdict(Stream)
        self.closed = asyncio.Event()

    def send(self, frames: bytes) -> None:
        """Send encoded frames, whatever they are."""
        self._writer.write(frames)

    async def flush(self) -> None:
        """Wait until the server takes more bytes."""
        await self._writer.drain()

    def call(self, path: str, metadata: Sequence[Header] = ()) -> int:
        """Send the headers of a gRPC call; return its stream."""
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        headers = (
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", path.encode()),
            (b":authority", self._authority),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            *metadata,
        )
        self.send(frame(HEADERS, END_HEADERS, stream, header_block(headers)))
        return stream

    async def send_data(self, stream: int, payload: bytes, *, end: bool = False) -> int:
        """Send bytes on a stream as the server's windows allow; return how many were sent before the stream ended."""
        sent = 0
        state = self.streams[stream]
        while sent < len(payload):
            room = min(self._send_windows[0], self._send_windows[stream], _FRAME_BYTES)
            if state.ended.is_set() or self.closed.is_set():
                return sent
            if room <= 0:
                self._window_opened.clear()
                await self._window_opened.wait()
                continue
            piece = payload[sent : sent + room]
            self._send_windows[0] -= len(piece)
            self._send_windows[stream] -= len(piece)
            sent += len(piece)
            self.send(frame(DATA, END_STREAM if end and sent == len(payload) else 0, stream, piece))
            await self.flush()
        return sent

    def reset(self, stream: int) -> None:
        """Cancel a stream."""
        self.send(frame(RST_STREAM, 0, stream, struct.pack(">I", 8)))

    async def read_frames(self) -> None:
        """Handle the server's frames until it closes the connection."""
        try:
            while True:
                head = await self._reader.readexactly(_FRAME_HEAD_BYTES)
                length = int.from_bytes(head[:3], "big")
                payload = await self._reader.readexactly(length)
                self._handle(head[3], head[4], int.from_bytes(head[5:], "big"), payload)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            self.closed.set()
            self._window_opened.set()
            for stream in self.streams.values():
                stream.received.set()
                stream.ended.set()

    def _handle(self, frame_type: int, flags: int, number: int, payload: bytes) -> None:
        if frame_type == SETTINGS and not flags & ACK:
            self._set_initial_window(payload)
            self.send(frame(SETTINGS, ACK, 0, b""))
        elif frame_type == PING and not flags & ACK:
            self.send(frame(PING, ACK, 0, payload))
        elif frame_type == WINDOW_UPDATE:
            self._send_windows[number] += struct.unpack(">I", payload)[0]
        elif number:
            self.streams[number].handle(frame_type, flags, payload)
        self._window_opened.set()

    def _set_initial_window(self, settings: bytes) -> None:
        for at in range(0, len(settings), 6):
            setting, value = struct.unpack_from(">HI", settings, at)
            if setting == _INITIAL_WINDOW_SIZE:
                for number in self._send_windows:
                    self._send_windows[number] += (value - self._initial_send_window) if number else 0
                self._initial_send_window = value


@asynccontextmanager
async def connect(address: str, *, window: int = _DEFAULT_WINDOW) -> AsyncIterator[Http2Connection]:
    """Connect to a server.

    Args:
        address: HOST:PORT.
        window: how many bytes of DATA the server may send on each stream; with 0 its responses are never read.
    """
    host, port = address.rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    connection = Http2Connection(reader, writer, address.encode())
    settings = struct.pack(">HIHI", _HEADER_TABLE_SIZE, 0, _INITIAL_WINDOW_SIZE, window)
    connection.send(_PREFACE + frame(SETTINGS, 0, 0, settings))
    frames = asyncio.create_task(connection.read_frames())
    try:
        yield connection
    finally:
        frames.cancel()
        await asyncio.gather(frames, return_exceptions=True)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
