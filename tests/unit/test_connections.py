"""The connections of a server that stops."""

import os

import psutil

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
