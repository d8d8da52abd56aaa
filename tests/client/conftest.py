"""A client of the real server, and servers that misbehave on purpose."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest

from poolservice_client import AsyncPoolClient, MaxPool2d, PoolClient

Behaviour = Callable[[bytes, grpc.ServicerContext], bytes]


class Client:
    """A client of either kind behind one way to call it."""

    x = np.random.default_rng(6).standard_normal((3, 8, 8)).astype(np.float32)

    def __init__(self, kind: type[Any], *arguments: Any, **options: Any) -> None:
        self.of = kind(*arguments, **options)

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._settle(self.of.close)

    async def pool(self, **options: Any) -> Any:
        return await self._settle(self.of.pool, self.x, MaxPool2d(2), **options)

    async def info(self) -> Any:
        return await self._settle(self.of.server_info)

    async def healthy(self) -> bool:
        return bool(await self._settle(self.of.health))

    async def close(self) -> None:
        await self._settle(self.of.close)

    async def _settle(self, method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        if isinstance(self.of, AsyncPoolClient):
            return await method(*arguments, **options)
        return await asyncio.to_thread(method, *arguments, **options)


@pytest.fixture(params=[PoolClient, AsyncPoolClient])
def calling(request: pytest.FixtureRequest) -> Callable[..., Client]:
    """Makes clients, blocking ones and those for asyncio, to be called alike."""
    return lambda *arguments, **options: Client(request.param, *arguments, **options)


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
