"""The connections of a server that stops."""

import os
import socket
import sys
from pathlib import Path

import psutil
import pytest

from poolservice_server.grpc_adapter.connections import close_connections


async def test_closing_connections_leaves_no_file_descriptor_open() -> None:
    ends = os.pipe()
    try:
        before = psutil.Process().num_fds()
        await close_connections("127.0.0.1:1")
        assert psutil.Process().num_fds() == before
    finally:
        for end in ends:
            os.close(end)


@pytest.mark.skipif(sys.platform != "linux", reason="sockets are found in /proc")
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
async def test_a_closed_listener_refuses_connections_and_its_owner_sees_no_error(
    tmp_path: Path, family: socket.AddressFamily
) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as listener, socket.socket(family, socket.SOCK_STREAM) as client:
        listener.bind(("127.0.0.1", 0) if family == socket.AF_INET else str(tmp_path / "socket"))
        listener.setblocking(False)
        listener.listen()
        address = listener.getsockname()
        await close_connections(f"unix:{address}" if isinstance(address, str) else f"127.0.0.1:{address[1]}")
        with pytest.raises(ConnectionRefusedError):
            client.connect(address)
        with pytest.raises(BlockingIOError):
            listener.accept()
