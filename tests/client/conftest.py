"""A client of the real server, and servers that misbehave on purpose."""

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from poolservice_client import PoolClient

Behaviour = Callable[[bytes, grpc.ServicerContext], bytes]


@pytest.fixture
def client(server_address: str) -> Iterator[PoolClient]:
    with PoolClient(server_address) as client:
        yield client


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """Gives a port that nobody listens on, for a server that is to come back to where it was, or for its metrics."""

    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    return find


@pytest.fixture
def serve() -> Iterator[Callable[[Behaviour], str]]:
    """Starts a server whose Pool does what a test says, which no real server would, and gives its address."""
    servers: list[tuple[grpc.Server, ThreadPoolExecutor]] = []

    def start(behaviour: Behaviour) -> str:
        pool = ThreadPoolExecutor(4)
        server = grpc.server(pool)
        handler: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(behaviour)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("poolservice.v1.PoolService", {"Pool": handler}),)
        )
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append((server, pool))
        return f"127.0.0.1:{port}"

    yield start
    for server, pool in servers:
        server.stop(None).wait()
        pool.shutdown()
