"""How a client reaches its servers: workers, several addresses, restarts, TLS, tokens, what travels with a call."""

import asyncio
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import grpc.aio
import numpy as np
import psutil
import pytest
import trustme

from poolservice import codec
from poolservice_client import (
    TLS,
    AsyncPoolClient,
    InvalidRequest,
    MaxPool2d,
    PoolClient,
    PoolError,
    ServerError,
    Unauthenticated,
    Unavailable,
)
from poolservice_client._aio_transport import AsyncGrpcTransport
from poolservice_client._settings import Settings
from poolservice_client._stats import Counters
from poolservice_client._transport import POOL_STREAM, GrpcTransport

StartServer = Callable[..., Any]

X = np.random.default_rng(6).standard_normal((3, 8, 8)).astype(np.float32)
SPEC = MaxPool2d(2)
PATIENCE_SECONDS = 60
both = pytest.mark.parametrize("kind", [PoolClient, AsyncPoolClient])


class Client:
    """A client of either kind behind one way to call it."""

    def __init__(self, kind: type[Any], *arguments: Any, **options: Any) -> None:
        self.of = kind(*arguments, **options)

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._settle(self.of.close)

    async def pool(self, **options: Any) -> Any:
        return await self._settle(self.of.pool, X, SPEC, **options)

    async def info(self) -> Any:
        return await self._settle(self.of.server_info)

    async def healthy(self) -> bool:
        return bool(await self._settle(self.of.health))

    async def _settle(self, method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        if isinstance(self.of, AsyncPoolClient):
            return await method(*arguments, **options)
        return await asyncio.to_thread(method, *arguments, **options)


async def until(condition: Callable[[], bool], *, calling: Client) -> None:
    """Call until it is so; what is done in the background begins with calls."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        await calling.pool()


async def workers_seen(client: Client, calls: int) -> list[int]:
    return [(await client.info()).worker for _ in range(calls)]


# Workers


@both
async def test_a_client_reaches_every_worker_and_calls_them_in_turn(start_server: StartServer, kind: type[Any]) -> None:
    address = start_server("--workers", "3").address
    async with Client(kind, address) as client:
        await client.pool()
        assert client.of.stats().connections == 1  # the first call waits for nothing
        await until(lambda: client.of.stats().connections == 3, calling=client)
        assert (await client.info()).workers == 3
        assert sorted(set(await workers_seen(client, 6))) == [0, 1, 2]
        assert sorted(await workers_seen(client, 3)) == [0, 1, 2]


@both
async def test_a_worker_that_died_is_reached_again(start_server: StartServer, kind: type[Any]) -> None:
    server = start_server("--workers", "2")
    async with Client(kind, server.address) as client:
        await client.pool()
        await until(lambda: client.of.stats().connections == 2, calling=client)
        worker = next(
            child
            for child in psutil.Process(server.process.pid).children()
            if "spawn_main" in " ".join(child.cmdline())
        )
        worker.send_signal(signal.SIGKILL)
        await asyncio.to_thread(worker.wait, PATIENCE_SECONDS)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while sorted(await workers_seen(client, 2)) != [0, 1]:
            # No call is lost meanwhile: the other worker takes them.
            assert (await client.pool()).shape == (3, 4, 4)
            assert time.monotonic() < deadline


def connections_to(address: str) -> list[Any]:
    return [
        one
        for one in psutil.Process().net_connections("tcp")
        if one.status == "ESTABLISHED" and f"127.0.0.1:{one.raddr.port}" == address
    ]


async def test_as_many_connections_as_asked_for(server_address: str) -> None:
    async with Client(PoolClient, server_address, connections=3) as client:
        assert await client.healthy()
        assert client.of.stats().connections == 3
        before = len(connections_to(server_address))
        await client.pool()
        await client.pool()
        assert len(connections_to(server_address)) == before + 2
    assert client.of.stats().connections == 0


# Addresses


@both
async def test_several_addresses_share_the_calls_and_one_that_is_not_there_harms_none(
    start_server: StartServer, kind: type[Any]
) -> None:
    first, second = start_server(), start_server()
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{reserved.getsockname()[1]}"
        async with Client(kind, [nobody, first.address, second.address]) as client:
            for _ in range(4):
                await client.pool()
            assert client.of.address == f"{nobody}, {first.address}, {second.address}"
            first.kill()
            for _ in range(10):
                assert (await client.pool()).shape == (3, 4, 4)


@both
async def test_a_name_is_balanced_and_the_environment_gives_the_address(
    server_address: str, monkeypatch: pytest.MonkeyPatch, kind: type[Any]
) -> None:
    monkeypatch.setenv("POOLSERVICE_ADDRESS", f"dns:///{server_address}")
    async with Client(kind) as client:
        assert client.of.address == f"dns:///{server_address}"
        for _ in range(3):
            assert (await client.pool()).shape == (3, 4, 4)


@both
async def test_a_unix_socket(start_server: StartServer, tmp_path: Path, kind: type[Any]) -> None:
    address = start_server("--address", f"unix:{tmp_path}/pool.sock").address
    # A token never leaves the machine through it.
    async with Client(kind, address, token="abc") as client:
        assert (await client.pool()).shape == (3, 4, 4)


# Servers that come and go


@both
async def test_calls_outlive_a_restart_of_the_server(start_server: StartServer, kind: type[Any]) -> None:
    server = start_server()
    async with Client(kind, server.address, coalesce=False) as client:
        await client.pool()
        stop = threading.Event()

        async def keep_calling() -> int:
            answered = 0
            while not stop.is_set():
                assert (await client.pool()).shape == (3, 4, 4)
                answered += 1
            return answered

        callers = [asyncio.create_task(keep_calling()) for _ in range(4)]
        await client.pool()
        server.kill()
        await asyncio.to_thread(start_server, "--address", server.address)
        await client.pool()
        stop.set()
        assert all(await asyncio.gather(*callers))
        assert client.of.stats().reconnects >= 1


@both
async def test_a_server_that_is_gone_is_reported_when_the_wait_is_over(
    start_server: StartServer, kind: type[Any]
) -> None:
    server = start_server()
    async with Client(kind, server.address, wait_for_ready=1.0) as client:
        await client.pool()
        server.kill()
        started = time.monotonic()
        with pytest.raises(Unavailable, match="no server answers at"):
            await client.pool()
        assert 0.5 < time.monotonic() - started < 10
        # The outage is waited out once, not by every call anew.
        started = time.monotonic()
        with pytest.raises(Unavailable, match="no server answers at"):
            await client.pool()
        assert time.monotonic() - started < 0.5


@both
async def test_a_server_that_is_yet_to_come_is_waited_for(start_server: StartServer, kind: type[Any]) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{reserved.getsockname()[1]}"
    async with Client(kind, address, wait_for_ready=PATIENCE_SECONDS, timeout=PATIENCE_SECONDS) as client:
        call = asyncio.create_task(client.pool())
        await asyncio.to_thread(start_server, "--address", address)
        assert (await call).shape == (3, 4, 4)
        assert client.of.stats().retries == 0


@both
async def test_closing_ends_a_wait(kind: type[Any]) -> None:
    client = Client(kind, "127.0.0.1:1", wait_for_ready=PATIENCE_SECONDS)
    call = asyncio.create_task(client.pool())
    # It runs to its first wait, which is for the server.
    await asyncio.wait([call], timeout=0.5)
    await client._settle(client.of.close)
    with pytest.raises(PoolError, match="closed"):
        await asyncio.wait_for(call, 10)


# Who is who


class Certificates(NamedTuple):
    ca: str
    certificate: str
    key: str
    client_certificate: str
    client_key: str


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")
    ca = trustme.CA()
    server, client = ca.issue_cert("localhost", "127.0.0.1"), ca.issue_cert("someone@example.org")
    paths = Certificates(*(str(folder / name) for name in Certificates._fields))
    ca.cert_pem.write_to_path(paths.ca)
    server.cert_chain_pems[0].write_to_path(paths.certificate)
    server.private_key_pem.write_to_path(paths.key)
    client.cert_chain_pems[0].write_to_path(paths.client_certificate)
    client.private_key_pem.write_to_path(paths.client_key)
    return paths


@pytest.fixture(scope="module")
def mutual(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that wants a certificate and a token."""
    from poolservice_server.testing import serve

    tokens = tmp_path_factory.mktemp("tokens") / "tokens"
    tokens.write_text("right\n")
    flags = ["--tls-certificate", certificates.certificate, "--tls-key", certificates.key]
    flags += ["--tls-client-ca", certificates.ca, "--auth-token-file", str(tokens)]
    with serve(*flags) as service:
        yield service.address


@both
async def test_mutual_tls_and_a_token(mutual: str, certificates: Certificates, kind: type[Any]) -> None:
    tls = TLS(certificates.ca, certificates.client_certificate, certificates.client_key)
    async with Client(kind, mutual, tls=tls, token="right") as client:
        assert (await client.pool()).shape == (3, 4, 4)
    async with Client(kind, mutual, tls=tls, token="wrong") as client:
        with pytest.raises(Unauthenticated, match="token"):
            await client.pool()
        assert client.of.stats().retries == 0


@both
async def test_the_environment_says_who_this_is(
    mutual: str, certificates: Certificates, monkeypatch: pytest.MonkeyPatch, kind: type[Any]
) -> None:
    monkeypatch.setenv("POOLSERVICE_CA", certificates.ca)
    monkeypatch.setenv("POOLSERVICE_CLIENT_CERTIFICATE", certificates.client_certificate)
    monkeypatch.setenv("POOLSERVICE_CLIENT_KEY", certificates.client_key)
    monkeypatch.setenv("POOLSERVICE_TOKEN", "right")
    async with Client(kind, mutual) as client:
        assert (await client.pool()).shape == (3, 4, 4)


@both
@pytest.mark.parametrize("wrong", ["stranger", "no certificate", "in the clear"])
async def test_a_handshake_that_fails_is_told_as_one(
    mutual: str, certificates: Certificates, kind: type[Any], wrong: str
) -> None:
    tls = {"stranger": True, "no certificate": TLS(certificates.ca), "in the clear": False}[wrong]
    async with Client(kind, mutual, tls=tls, timeout=10) as client:
        with pytest.raises(Unavailable) as refused:
            await client.pool()
    if wrong == "stranger":
        assert "TLS handshake" in str(refused.value)


@pytest.mark.parametrize(
    ("address", "tls", "allowed"),
    [
        ("localhost:1", None, True),
        ("127.0.0.1:1", None, True),
        ("[::1]:1", None, True),
        ("unix:/nowhere", None, True),
        ("dns:///localhost:1", None, True),
        ("example.org:443", True, True),
        ("example.org:443", None, False),
        ("10.0.0.1:443", False, False),
        (["localhost:1", "example.org:443"], None, False),
    ],
)
def test_a_token_never_travels_in_the_clear(address: Any, tls: bool | None, allowed: bool) -> None:
    if allowed:
        PoolClient(address, tls=tls, token="abc").close()
        return
    with pytest.raises(InvalidRequest, match="over TLS") as refused:
        PoolClient(address, tls=tls, token="abc")
    assert refused.value.field == "token"


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"address": []}, "address"),
        ({"address": [1]}, "address"),
        ({"address": "localhost:1,"}, "address"),
        ({"connections": 0}, "connections"),
        ({"connections": 257}, "connections"),
        ({"retries": 3}, "retries"),
        ({"hedge_after": 0}, "hedge_after"),
        ({"compression": "zstd"}, "compression"),
        ({"keepalive": 0.5}, "keepalive"),
        ({"wait_for_ready": -1}, "wait_for_ready"),
        ({"tls": "ca.pem"}, "tls"),
        ({"tls": TLS(ca="/nowhere/ca.pem")}, "tls"),
        ({"token": "a\nb"}, "token"),
        ({"metadata": ["x"]}, "metadata"),
        ({"metadata": [("X-Upper", "1")]}, "metadata"),
        ({"metadata": [("grpc-timeout", "1")]}, "metadata"),
        ({"metadata": [("x-bin", "text")]}, "metadata"),
        ({"metadata": [("x", "ü")]}, "metadata"),
        ({"interceptors": [object()]}, "interceptors"),
    ],
)
@both
async def test_what_cannot_be_is_refused_by_its_name(kind: type[Any], options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        async with Client(kind, **{"address": "localhost:1", **options}) as client:
            await client.pool()
    assert refused.value.field == field


def test_a_certificate_comes_with_its_key() -> None:
    with pytest.raises(InvalidRequest, match="together"):
        TLS(certificate="client.pem")


# What travels with a call


@both
async def test_metadata_reaches_the_server(
    serve: Callable[[Callable[[bytes, grpc.ServicerContext], bytes]], str], kind: type[Any]
) -> None:
    seen: dict[str, Any] = {}

    def behaviour(request: bytes, context: grpc.ServicerContext) -> bytes:
        seen.update((key, value) for key, value in context.invocation_metadata())
        context.abort(grpc.StatusCode.INTERNAL, "seen")
        raise AssertionError

    metadata = [("x-request-of", "a test"), ("x-trace-bin", b"\x00\xff")]
    async with Client(kind, serve(behaviour), metadata=metadata, token="abc") as client:
        with pytest.raises(ServerError, match="seen"):
            await client.pool()
    assert seen["x-request-of"] == "a test"
    assert seen["x-trace-bin"] == b"\x00\xff"
    assert seen["authorization"] == "Bearer abc"


@both
async def test_compression_where_the_server_takes_it(start_server: StartServer, kind: type[Any]) -> None:
    address = start_server("--compression").address
    async with Client(kind, address, compression="gzip") as client:
        np.testing.assert_array_equal(await client.pool(), X.reshape(3, 4, 2, 4, 2).max((2, 4)))


@both
async def test_compression_where_it_does_not(server_address: str, kind: type[Any]) -> None:
    async with Client(kind, server_address, compression="gzip") as client:
        with pytest.raises(ServerError, match="start it with --compression"):
            await client.pool()


class Counting(grpc.UnaryUnaryClientInterceptor):
    def __init__(self) -> None:
        self.methods: list[str] = []

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        self.methods.append(details.method)
        return continuation(details, request)


class AsyncCounting(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self) -> None:
        self.methods: list[bytes] = []

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        self.methods.append(details.method)
        return await continuation(details, request)


async def test_interceptors_see_each_call(server_address: str) -> None:
    blocking, awaited = Counting(), AsyncCounting()
    async with Client(PoolClient, server_address, interceptors=[blocking]) as client:
        assert (await client.pool()).shape == (3, 4, 4)
    assert blocking.methods == ["/poolservice.v1.PoolService/Pool"]
    async with Client(AsyncPoolClient, server_address, interceptors=[awaited]) as client:
        assert (await client.pool()).shape == (3, 4, 4)
    assert awaited.methods == [b"/poolservice.v1.PoolService/Pool"]


@both
async def test_a_connection_is_kept_alive(server_address: str, kind: type[Any]) -> None:
    async with Client(kind, server_address, keepalive=10) as client:
        assert (await client.pool()).shape == (3, 4, 4)


# Streams


def stream_messages(count: int) -> Iterator[bytes]:
    from poolservice_client._payload import payload
    from poolservice_client._request import PoolQuery

    prepared = payload(X)
    request = PoolQuery.of(SPEC, output="tensor").kind_of(prepared).request(prepared.data)
    for number in range(count):
        yield codec.encode_stream_request(number, request)


def numbers(answers: list[bytes]) -> list[int]:
    return sorted(codec.decode_stream_response(answer)[0] for answer in answers)


async def test_a_stream_answers_each_message(server_address: str) -> None:
    settings = Settings.of(server_address, 30.0, 2**26)
    transport = GrpcTransport(settings, Counters())
    assert numbers(await asyncio.to_thread(list, transport.stream(POOL_STREAM, stream_messages(100), 30))) == [
        *range(100)
    ]
    # Leaving it early ends it.
    answers = transport.stream(POOL_STREAM, stream_messages(10_000), 30)
    next(answers)
    answers.close()  # type: ignore[attr-defined]
    transport.close()

    async def messages() -> AsyncIterator[bytes]:
        for message in stream_messages(100):
            yield message

    awaited = AsyncGrpcTransport(settings, Counters())
    assert numbers([answer async for answer in awaited.stream(POOL_STREAM, messages(), 30)]) == [*range(100)]
    await awaited.close()


async def test_a_stream_that_breaks_is_a_pool_error(start_server: StartServer) -> None:
    server = start_server()
    settings = Settings.of(server.address, 30.0, 2**26)
    transport = GrpcTransport(settings, Counters())
    answers = transport.stream(POOL_STREAM, stream_messages(10**9), 30)
    next(answers)
    server.kill()
    with ThreadPoolExecutor(1) as thread, pytest.raises(Unavailable):
        await asyncio.wrap_future(thread.submit(lambda: [None for _ in answers]))
    transport.close()
