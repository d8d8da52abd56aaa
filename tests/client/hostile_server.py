"""An HTTP/2 server that sends any frames a test wants, valid or not, to the clients of the SDK."""

import asyncio
import contextlib
import struct
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeAlias

#: Frame types, flags and settings of RFC 9113.
DATA, HEADERS, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 5, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED = 0x1, 0x1, 0x4, 0x8
INITIAL_WINDOW_SIZE = 4

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DEFAULT_WINDOW = 65_535
_MAX_FRAME = 16_384


def frame(frame_type: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return one frame."""
    return struct.pack(">I", len(payload))[1:] + bytes([frame_type, flags]) + struct.pack(">I", stream) + payload


def fields(*pairs: tuple[bytes, bytes]) -> bytes:
    """Return a field block in HPACK's literal form, without indexing and without Huffman codes."""
    return b"".join(b"\x00" + _string(name) + _string(value) for name, value in pairs)


def message(payload: bytes, declared: int | None = None, *, compressed: bool = False) -> bytes:
    """Return a message in gRPC's framing, whose prefix may declare another size than it has."""
    return struct.pack(">?I", compressed, len(payload) if declared is None else declared) + payload


def _string(text: bytes) -> bytes:
    if len(text) < 127:
        return bytes([len(text)]) + text
    rest, length = len(text) - 127, b"\x7f"
    while rest >= 128:
        length += bytes([rest % 128 + 128])
        rest //= 128
    return length + bytes([rest]) + text


class Peer:
    """The server's end of one connection.

    Attributes:
        sent: the bytes of DATA frames that were sent, by stream.
    """

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._windows: dict[int, int] = {}
        self._initial_window = _DEFAULT_WINDOW
        self._window_changed = asyncio.Event()
        self.sent: dict[int, int] = {}

    async def send(self, *frames: bytes) -> None:
        """Send frames as they are."""
        self._writer.writelines(frames)
        await self._writer.drain()

    async def headers(self, stream: int, *pairs: tuple[bytes, bytes], flags: int = 0) -> None:
        """Send response headers: those of a gRPC server, and further ones."""
        head = fields((b":status", b"200"), (b"content-type", b"application/grpc"), *pairs)
        await self.send(frame(HEADERS, END_HEADERS | flags, stream, head))

    async def trailers(self, stream: int, *pairs: tuple[bytes, bytes]) -> None:
        """Send trailers."""
        await self.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, fields(*pairs)))

    async def data(self, stream: int, payload: bytes) -> None:
        """Send data as fast as the client's flow-control windows allow."""
        while payload:
            while (room := min(self._window(stream), self._window(0), _MAX_FRAME)) <= 0:
                self._window_changed.clear()
                await self._window_changed.wait()
            part, payload = payload[:room], payload[room:]
            for number in (0, stream):
                self._windows[number] = self._window(number) - len(part)
            self.sent[stream] = self.sent.get(stream, 0) + len(part)
            await self.send(frame(DATA, 0, stream, part))

    async def close(self) -> None:
        """Close the connection."""
        self._writer.close()

    def receive(self, frame_type: int, stream: int, payload: bytes) -> None:
        """Update the client's flow-control windows from a frame."""
        if frame_type == WINDOW_UPDATE:
            self._windows[stream] = self._window(stream) + int.from_bytes(payload, "big")
        elif frame_type == SETTINGS:
            for start in range(0, len(payload), 6):
                setting, value = struct.unpack(">HI", payload[start : start + 6])
                if setting == INITIAL_WINDOW_SIZE:
                    self._windows = {
                        number: window + (value - self._initial_window if number else 0)
                        for number, window in self._windows.items()
                    }
                    self._initial_window = value
        self._window_changed.set()

    def _window(self, stream: int) -> int:
        return self._windows.get(stream, self._initial_window if stream else _DEFAULT_WINDOW)


#: The server's reaction to a call, given the connection and the number of the call's stream.
Attack: TypeAlias = Callable[[Peer, int], Awaitable[None]]


class HostileServer:
    """A server on a free port, with an event loop in a thread of its own.

    Args:
        attack: runs for each stream.
        early: whether it runs when a stream starts; otherwise it runs when the client has sent its whole request.
        grants: whether the server lets the client send more than the first window of data.

    Attributes:
        address: the address that clients call.
        streams: the number of streams that clients have started.
        peers: the connections so far.
    """

    def __init__(self, attack: Attack, *, early: bool = False, grants: bool = True) -> None:
        self._attack = attack
        self._early = early
        self._grants = grants
        self._started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="hostile-server", daemon=True)
        self.address = ""
        self.streams = 0
        self.peers: list[Peer] = []

    def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        self._thread.start()
        assert self._started.wait(30)

    def stop(self) -> None:
        """Close all connections and end the thread."""
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(30)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        connections: dict[asyncio.StreamWriter, asyncio.Future[None]] = {}

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connections[writer] = asyncio.ensure_future(self._handle(reader, writer))

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._started.set()
        await self._stopping.wait()
        server.close()
        # A connection that is just being accepted is complete after a few turns of the event loop.
        for _ in range(5):
            await asyncio.sleep(0)
        for writer, task in connections.items():
            task.cancel()
            writer.transport.abort()
        await asyncio.gather(*connections.values(), return_exceptions=True)
        for writer in connections:
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(writer)
        self.peers.append(peer)
        attacks: dict[int, asyncio.Future[None]] = {}
        try:
            await reader.readexactly(len(_PREFACE))
            await peer.send(frame(SETTINGS, 0, 0))
            while True:
                head = await reader.readexactly(9)
                frame_type, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
                payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
                await self._acknowledge(peer, frame_type, flags, stream, payload)
                if frame_type == HEADERS:
                    self.streams += 1
                if frame_type == RST_STREAM and stream in attacks:
                    attacks[stream].cancel()
                if frame_type == HEADERS if self._early else frame_type in (DATA, HEADERS) and flags & END_STREAM:
                    attacks[stream] = asyncio.ensure_future(self._attack(peer, stream))
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            for attack in attacks.values():
                attack.cancel()
            # An attack may end because the client has left. Any other exception is an error of the test.
            for outcome in await asyncio.gather(*attacks.values(), return_exceptions=True):
                assert outcome is None or isinstance(outcome, asyncio.CancelledError | ConnectionError), outcome
            writer.transport.abort()

    async def _acknowledge(self, peer: Peer, frame_type: int, flags: int, stream: int, payload: bytes) -> None:
        """Respond to a frame as HTTP/2 requires, so that the client goes on."""
        if frame_type in (SETTINGS, PING) and not flags & ACK:
            await peer.send(frame(frame_type, ACK, 0, payload if frame_type == PING else b""))
        elif frame_type == DATA and payload and self._grants:
            grant = struct.pack(">I", len(payload))
            await peer.send(frame(WINDOW_UPDATE, 0, stream, grant), frame(WINDOW_UPDATE, 0, 0, grant))
        peer.receive(frame_type, stream, payload)


@contextlib.contextmanager
def hostile(attack: Attack, *, early: bool = False, grants: bool = True) -> Iterator[HostileServer]:
    """Run a HostileServer during the block."""
    server = HostileServer(attack, early=early, grants=grants)
    server.start()
    try:
        yield server
    finally:
        server.stop()
