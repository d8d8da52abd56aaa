"""Fuzz a real server with damaged sequences of HTTP/2 frames; it must stay healthy and give its memory back.

    python -m tests.fuzz.frames [--inputs N] [--seed S] [--processes P] [--replay FILE]

Each child process has a server of its own. An input is what a client sends on one connection. After the input the
client closes its side, and the server must close the connection. Between inputs a good client calls the server.
"""

import socket
import struct
from contextlib import ExitStack
from functools import cache
from random import Random

import numpy as np
import psutil
from tests.fuzz.campaign import Fuzzer, main

from poolservice.specs import GlobalMaxPool2d, to_message
from poolservice.v1 import pool_pb2
from poolservice_client import PoolClient
from poolservice_server.testing import Service, serve

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS, _CONTINUATION = 0, 1, 4, 9
_END_STREAM, _END_HEADERS = 0x1, 0x4
# How long the server may take to close a connection, and how often a good client calls.
_CLOSE_SECONDS = 20.0
_INPUTS_PER_GOOD_CALL = 20
_MEMORY_BYTES = 300 * 2**20

_PAYLOAD = np.arange(12, dtype=np.float32).reshape(1, 3, 4)


def generate(random: Random) -> bytes:
    """Return the bytes of one connection."""
    frames = [_frame(_SETTINGS, 0, 0, _settings(random))]
    for stream in range(1, 2 * random.randint(1, 4), 2):
        headers = _request_headers(random)
        cut = random.randrange(len(headers)) if random.random() < 0.2 else len(headers)
        frames.append(_frame(_HEADERS, _END_HEADERS if cut == len(headers) else 0, stream, headers[:cut]))
        if cut < len(headers):
            frames.append(_frame(_CONTINUATION, _END_HEADERS, stream, headers[cut:]))
        frames.append(_frame(_DATA, _END_STREAM, stream, _message(random)))
    for _ in range(random.choice((0, 1, 2, 4, 12))):
        frames.insert(random.randint(0, len(frames)), _any_frame(random))
    for _ in range(random.choice((0, 0, 1, 3))):
        frames.insert(random.randint(0, len(frames)), random.choice(frames))
    if random.random() < 0.1:
        random.shuffle(frames)
    raw = bytearray((_PREFACE if random.random() < 0.95 else _PREFACE[:-3]) + b"".join(frames))
    for _ in range(random.choice((0, 0, 1, 1, 3, 8))):
        at = random.randrange(len(raw))
        match random.randrange(3):
            case 0:
                raw[at] = random.choice((0, 0xFF, 0x7F, 0x80, random.randrange(256)))
            case 1:
                del raw[at : at + random.randint(1, 20)]
            case _:
                raw[at:at] = random.randbytes(random.randint(1, 20))
    return bytes(raw)


def check(data: bytes) -> None:
    """Fail if the server keeps the connection open after the input, or does not serve a good client."""
    server = _server()
    host, port = server.service.address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), _CLOSE_SECONDS) as connection:
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
        except ConnectionError:
            pass  # the server closed the connection first; if it never does, a TimeoutError fails the input
    server.count()


def finish() -> None:
    """Check the server once more, and stop it."""
    server = _server()
    server.check()
    server.close()


class _Server:
    """A server that is fuzzed, and a good client."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.service: Service = self._stack.enter_context(serve("--device", "cpu"))
        self._client = self._stack.enter_context(PoolClient(self.service.address, timeout=20.0))
        self._inputs = 0
        self.check()
        self._memory = self._rss()

    def count(self) -> None:
        """Check the server after every few inputs."""
        self._inputs += 1
        if self._inputs % _INPUTS_PER_GOOD_CALL == 0:
            self.check()
            assert self._rss() < self._memory + _MEMORY_BYTES, "the server's memory grew"

    def check(self) -> None:
        """Fail unless a good call has the right result."""
        assert self.service.process.poll() is None, self.service.log()[-2000:]
        # gRPC itself logs tracebacks about metadata that is not text; the path stands in tracebacks of our own code.
        assert "/poolservice_server/" not in self.service.log(), self.service.log()[-4000:]
        result = self._client.pool(_PAYLOAD, GlobalMaxPool2d())
        assert float(np.asarray(result).reshape(())) == 11.0

    def close(self) -> None:
        """Stop the client and the server, which must stop without an error."""
        self._stack.close()

    def _rss(self) -> int:
        return int(psutil.Process(self.service.process.pid).memory_info().rss)


@cache
def _server() -> _Server:
    return _Server()


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">L", len(payload))[1:] + struct.pack(">BBL", kind, flags, stream) + payload


def _settings(random: Random) -> bytes:
    settings = [(random.randint(1, 8), random.choice((0, 1, 100, 16384, 65535, 2**31 - 1, 2**32 - 1)))]
    return b"".join(struct.pack(">HL", *setting) for setting in settings * random.randint(0, 2))


def _request_headers(random: Random) -> bytes:
    """Encode the headers of a call, each as a literal that is not indexed."""
    method = random.choice(("Pool", "Pool", "PoolBatch", "PoolStream", "GetServerInfo", "Unknown"))
    headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", f"/poolservice.v1.PoolService/{method}"),
        (":authority", "localhost"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        *random.choice(((), (("grpc-timeout", "1S"),), (("grpc-encoding", "gzip"),), (("x", "y" * 5000),))),
    ]
    if random.random() < 0.2:
        headers.insert(random.randint(0, len(headers)), random.choice(headers))
    return b"".join(b"\0" + _string(name) + _string(value) for name, value in headers)


def _string(text: str) -> bytes:
    """Encode a string of HPACK without Huffman coding."""
    size = len(text)
    if size < 127:
        return bytes((size,)) + text.encode()
    prefix, rest = bytearray((127,)), size - 127
    while rest >= 128:
        prefix.append(rest & 0x7F | 0x80)
        rest >>= 7
    prefix.append(rest)
    return bytes(prefix) + text.encode()


def _message(random: Random) -> bytes:
    """Return a message behind gRPC's prefix: a flag for compression and the length."""
    request = pool_pb2.PoolRequest(
        specs=[to_message(GlobalMaxPool2d())],
        tensor=pool_pb2.Tensor(dtype=pool_pb2.DATA_TYPE_FLOAT32, shape=_PAYLOAD.shape, data=_PAYLOAD.tobytes()),
    )
    if random.random() < 0.3:
        request.backbone = random.choice(("", "unknown", "\x1b\n", "x" * 5000))
        request.tap = random.choice(("", "features", "x" * 5000))
        request.classification.CopyFrom(pool_pb2.Classification(top=random.choice((0, 1, 2**32 - 1))))
    raw = request.SerializeToString()
    length = len(raw) if random.random() < 0.8 else random.choice((0, 1, 2**31, 2**32 - 1, 70_000_000))
    return struct.pack(">BL", random.choice((0, 0, 0, 1, 255)), length) + raw


def _any_frame(random: Random) -> bytes:
    kind = random.choice((*range(10), 10, 255))
    stream = random.choice((0, 1, 1, 3, 2, 2**31 - 1))
    payloads = (b"", b"\0" * 4, b"\0" * 8, struct.pack(">L", 2**31 - 1), struct.pack(">L", 0x8), random.randbytes(20))
    return _frame(kind, random.choice((0, 1, 4, 5, 8, 0x20, 0xFF)), stream, random.choice(payloads))


if __name__ == "__main__":
    main(Fuzzer("frames", generate, check, inputs=20_000, finish=finish))
