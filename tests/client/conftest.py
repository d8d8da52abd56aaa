"""Fixtures: clients of the real server, and servers that misbehave on purpose."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import grpc
import grpc.aio
import numpy as np
import pytest
import trustme

from poolservice_client import AsyncPoolClient, MaxPool2d, PoolClient

Behaviour = Callable[[bytes, grpc.ServicerContext], bytes]


class AttemptCounter(grpc.UnaryUnaryClientInterceptor):
    """Counts the attempts of blocking calls, retries included."""

    def __init__(self) -> None:
        self.count = 0

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        self.count += 1
        return continuation(details, request)


class AsyncAttemptCounter(grpc.aio.UnaryUnaryClientInterceptor):
    """Counts the attempts of asyncio calls, retries included."""

    def __init__(self) -> None:
        self.count = 0

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        self.count += 1
        return await continuation(details, request)


class AwaitableClient:
    """A PoolClient or an AsyncPoolClient whose methods are awaited in both cases.

    With `counts_attempts`, `attempts.count` is the number of attempts of its calls.
    """

    x = np.random.default_rng(6).standard_normal((3, 8, 8)).astype(np.float32)

    def __init__(self, client_class: type[Any], *arguments: Any, counts_attempts: bool = False, **options: Any) -> None:
        self.attempts = AttemptCounter() if client_class is PoolClient else AsyncAttemptCounter()
        if counts_attempts:
            options["interceptors"] = [self.attempts]
        self.client = client_class(*arguments, **options)

    async def __aenter__(self) -> "AwaitableClient":
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._await(self.client.close)

    async def pool(self, **options: Any) -> Any:
        return await self._await(self.client.pool, self.x, MaxPool2d(2), **options)

    async def info(self) -> Any:
        return await self._await(self.client.server_info)

    async def healthy(self) -> bool:
        return bool(await self._await(self.client.health))

    async def close(self) -> None:
        await self._await(self.client.close)

    async def _await(self, method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        if isinstance(self.client, AsyncPoolClient):
            return await method(*arguments, **options)
        return await asyncio.to_thread(method, *arguments, **options)


class Certificates(NamedTuple):
    """The paths of the files of an authority, a server (also pool.example.org), a client, and another client.

    Another authority issued the certificate of the other client.
    """

    ca: str
    certificate: str
    key: str
    client_certificate: str
    client_key: str
    other_certificate: str
    other_key: str


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")
    ca = trustme.CA()
    server, client = ca.issue_cert("localhost", "127.0.0.1", "pool.example.org"), ca.issue_cert("someone@example.org")
    paths = Certificates(*(str(folder / name) for name in Certificates._fields))
    ca.cert_pem.write_to_path(paths.ca)
    server.cert_chain_pems[0].write_to_path(paths.certificate)
    server.private_key_pem.write_to_path(paths.key)
    client.cert_chain_pems[0].write_to_path(paths.client_certificate)
    client.private_key_pem.write_to_path(paths.client_key)
    other = trustme.CA().issue_cert("someone@example.org")
    other.cert_chain_pems[0].write_to_path(paths.other_certificate)
    other.private_key_pem.write_to_path(paths.other_key)
    return paths


@pytest.fixture(params=[PoolClient, AsyncPoolClient])
def make_client(request: pytest.FixtureRequest) -> Callable[..., AwaitableClient]:
    """Creates a client, once of each class, whose methods are awaited."""
    return lambda *arguments, **options: AwaitableClient(request.param, *arguments, **options)


@pytest.fixture
def client(server_address: str) -> Iterator[PoolClient]:
    with PoolClient(server_address) as client:
        yield client


@pytest.fixture
def backbone_client(backbone_address: str) -> Iterator[PoolClient]:
    with PoolClient(backbone_address) as client:
        yield client


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """Returns a port on which nothing listens, for a server that restarts at the same address or serves metrics."""

    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    return find


@pytest.fixture
def serve() -> Iterator[Callable[[Behaviour], str]]:
    """Starts a server whose Pool method is the given function, and returns its address."""
    servers: list[tuple[grpc.Server, ThreadPoolExecutor]] = []

    def start(behaviour: Behaviour) -> str:
        threads = ThreadPoolExecutor(4)
        server = grpc.server(threads)
        handler: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(behaviour)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("poolservice.v1.PoolService", {"Pool": handler}),)
        )
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append((server, threads))
        return f"127.0.0.1:{port}"

    yield start
    for server, threads in servers:
        server.stop(None).wait()
        threads.shutdown()
