"""Fixtures for the server's tests: the command that fails to start, a small request, and malformed calls."""

import os
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import grpc
import numpy as np
import pytest
import trustme

from poolservice.v1 import pool_pb2 as pb
from poolservice.v1.pool_pb2_grpc import PoolServiceStub

RunServer = Callable[..., "subprocess.CompletedProcess[str]"]
PoolSmall = Callable[[PoolServiceStub], float]
CallPath = Callable[[str, bytes], grpc.StatusCode | None]

_TIMEOUT_SECONDS = 60

# The trailing header with its value of one or two digits, in HTTP/2's literal form.
_GRPC_STATUS = re.compile(rb"grpc-status(?:\x01(\d)|\x02(\d\d))")


@pytest.fixture(scope="session")
def run_server() -> RunServer:
    """Return a function that runs `poolservice-server` with flags that end it, and returns its output and status."""

    def run(*flags: str, env: Mapping[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "poolservice_server", *flags],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
            env={**os.environ, "POOLSERVICE_LISTEN": "127.0.0.1:0", **(env or {})},
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def small_request() -> pb.PoolRequest:
    """Return a request for the mean of 1 and 3."""
    return pb.PoolRequest(
        specs=[pb.PoolSpec(spatial_dims=2, global_avg_pool=pb.GlobalAvgPool())],
        tensor=pb.Tensor(dtype=pb.DATA_TYPE_UINT8, shape=[1, 1, 2], data=b"\x01\x03"),
    )


@pytest.fixture(scope="session")
def pool_small(small_request: pb.PoolRequest) -> PoolSmall:
    """Return a function that sends the small request to a stub, waits for its server, and returns the result: 2.0."""

    def pool(stub: PoolServiceStub) -> float:
        response = stub.Pool(small_request, wait_for_ready=True, timeout=_TIMEOUT_SECONDS)
        return float(np.frombuffer(response.results[0].tensor.data, np.float32)[0])

    return pool


@pytest.fixture(scope="session")
def call_path() -> CallPath:
    """Return a function that calls any path, also a malformed one, and returns the status of the response.

    It returns None if the server closes the connection without a status.
    """
    return _call_path


def _frame(frame_type: int, flags: int, stream: int, payload: bytes) -> bytes:
    length = struct.pack(">I", len(payload))[1:]
    return length + bytes([frame_type, flags]) + struct.pack(">I", stream) + payload


def _header(name: bytes, value: bytes) -> bytes:
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


def _call_path(address: str, path: bytes) -> grpc.StatusCode | None:
    host, port = address.split(":")
    headers = b"".join(
        _header(name, value)
        for name, value in (
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", path),
            (b":authority", address.encode()),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
        )
    )
    with socket.create_connection((host, int(port)), timeout=_TIMEOUT_SECONDS) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4, 0, 0, b""))
        connection.sendall(_frame(1, 0x4, 1, headers) + _frame(0, 0x1, 1, b"\x00\x00\x00\x00\x00"))
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
            if found := _GRPC_STATUS.search(received):
                number = int(found[1] or found[2])
                return next(code for code in grpc.StatusCode if code.value[0] == number)
    return None


@pytest.fixture
def tls_flags(tmp_path: Path) -> list[str]:
    """Return the flags of a server with a certificate for localhost."""
    issued = trustme.CA().issue_cert("localhost", "127.0.0.1")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    certificate.write_bytes(issued.cert_chain_pems[0].bytes())
    key.write_bytes(issued.private_key_pem.bytes())
    return ["--tls-certificate", str(certificate), "--tls-key", str(key)]
