"""What the server's tests share: a bare HTTP/2 connection, for what no gRPC client would send."""

import socket
import struct
from collections.abc import Callable

import pytest


@pytest.fixture(scope="session")
def send_path() -> Callable[[str, bytes], bytes]:
    """Calls a path, which need not be text, on the server at an address; gives what came back."""
    return call_path


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def literal(name: bytes, value: bytes) -> bytes:
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


def call_path(address: str, path: bytes) -> bytes:
    """Call `path` over a bare HTTP/2 connection; what comes back until the server ends the stream."""
    host, port = address.split(":")
    headers = b"".join(
        literal(name, value)
        for name, value in (
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", path),
            (b":authority", address.encode()),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
        )
    )
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b""))
        connection.sendall(frame(1, 0x4, 1, headers) + frame(0, 0x1, 1, b"\x00\x00\x00\x00\x00"))
        received = b""
        while b"grpc-status" not in received:
            chunk = connection.recv(65536)
            if not chunk:
                break
            received += chunk
        return received
