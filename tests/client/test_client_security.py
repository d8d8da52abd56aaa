"""TLS, tokens, metadata, compression, interceptors and keepalive."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import grpc
import grpc.aio
import numpy as np
import pytest
import trustme

from poolservice_client import (
    TLS,
    AsyncPoolClient,
    InvalidRequest,
    PoolClient,
    ServerError,
    Unauthenticated,
    Unavailable,
)
from poolservice_server.testing import serve as start

StartServer = Callable[..., Any]
MakeClient = Callable[..., Any]


# TLS and tokens


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
def secure_address(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that requires a client certificate and a token."""
    tokens = tmp_path_factory.mktemp("tokens") / "tokens"
    tokens.write_text("right\n")
    flags = ["--tls-certificate", certificates.certificate, "--tls-key", certificates.key]
    flags += ["--tls-client-ca", certificates.ca, "--auth-token-file", str(tokens)]
    with start(*flags) as service:
        yield service.address


async def test_mutual_tls_and_a_token(secure_address: str, certificates: Certificates, make_client: MakeClient) -> None:
    tls = TLS(certificates.ca, certificates.client_certificate, certificates.client_key)
    async with make_client(secure_address, tls=tls, token="right") as client:
        assert (await client.pool()).shape == (3, 4, 4)
    async with make_client(secure_address, tls=tls, token="wrong") as client:
        with pytest.raises(Unauthenticated, match="token"):
            await client.pool()
        assert client.client.stats().retries == 0


async def test_the_environment_provides_the_credentials(
    secure_address: str, certificates: Certificates, monkeypatch: pytest.MonkeyPatch, make_client: MakeClient
) -> None:
    monkeypatch.setenv("POOLSERVICE_CA", certificates.ca)
    monkeypatch.setenv("POOLSERVICE_CLIENT_CERTIFICATE", certificates.client_certificate)
    monkeypatch.setenv("POOLSERVICE_CLIENT_KEY", certificates.client_key)
    monkeypatch.setenv("POOLSERVICE_TOKEN", "right")
    async with make_client(secure_address) as client:
        assert (await client.pool()).shape == (3, 4, 4)


@pytest.mark.parametrize("wrong", ["unknown authority", "no certificate", "no encryption"])
async def test_a_failed_handshake_is_reported(
    secure_address: str, certificates: Certificates, make_client: MakeClient, wrong: str
) -> None:
    tls = {"unknown authority": True, "no certificate": TLS(certificates.ca), "no encryption": False}[wrong]
    async with make_client(secure_address, tls=tls, timeout=10) as client:
        with pytest.raises(Unavailable) as raised:
            await client.pool()
    if wrong == "unknown authority":
        assert "TLS handshake" in str(raised.value)


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
def test_a_token_is_never_sent_unencrypted_to_another_machine(address: Any, tls: bool | None, allowed: bool) -> None:
    if allowed:
        PoolClient(address, tls=tls, token="abc").close()
        return
    with pytest.raises(InvalidRequest, match="over TLS") as raised:
        PoolClient(address, tls=tls, token="abc")
    assert raised.value.field == "token"


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
async def test_an_invalid_setting_is_named(make_client: MakeClient, options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        async with make_client(**{"address": "localhost:1", **options}) as client:
            await client.pool()
    assert raised.value.field == field


def test_a_certificate_needs_its_key() -> None:
    with pytest.raises(InvalidRequest, match="together"):
        TLS(certificate="client.pem")


# Metadata, compression and interceptors


async def test_metadata_reaches_the_server(
    serve: Callable[[Callable[[bytes, grpc.ServicerContext], bytes]], str], make_client: MakeClient
) -> None:
    seen: dict[str, Any] = {}

    def behaviour(request: bytes, context: grpc.ServicerContext) -> bytes:
        seen.update((key, value) for key, value in context.invocation_metadata())
        context.abort(grpc.StatusCode.INTERNAL, "seen")
        raise AssertionError

    metadata = [("x-request-of", "a test"), ("x-trace-bin", b"\x00\xff")]
    async with make_client(serve(behaviour), metadata=metadata, token="abc") as client:
        with pytest.raises(ServerError, match="seen"):
            await client.pool()
    assert seen["x-request-of"] == "a test"
    assert seen["x-trace-bin"] == b"\x00\xff"
    assert seen["authorization"] == "Bearer abc"


async def test_compression_if_the_server_supports_it(start_server: StartServer, make_client: MakeClient) -> None:
    address = start_server("--compression").address
    async with make_client(address, compression="gzip") as client:
        np.testing.assert_array_equal(await client.pool(), client.x.reshape(3, 4, 2, 4, 2).max((2, 4)))


async def test_compression_if_the_server_does_not_support_it(server_address: str, make_client: MakeClient) -> None:
    async with make_client(server_address, compression="gzip") as client:
        with pytest.raises(ServerError, match="start it with --compression"):
            await client.pool()


class Recorder(grpc.UnaryUnaryClientInterceptor):
    def __init__(self) -> None:
        self.methods: list[str] = []

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        self.methods.append(details.method)
        return continuation(details, request)


class AsyncRecorder(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self) -> None:
        self.methods: list[bytes] = []

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        self.methods.append(details.method)
        return await continuation(details, request)


async def test_interceptors_see_each_call(server_address: str) -> None:
    blocking, awaited = Recorder(), AsyncRecorder()
    with PoolClient(server_address, interceptors=[blocking]) as client:
        assert client.health()
    assert blocking.methods == ["/grpc.health.v1.Health/Check"]
    async with AsyncPoolClient(server_address, interceptors=[awaited]) as aclient:
        assert await aclient.health()
    assert awaited.methods == [b"/grpc.health.v1.Health/Check"]


async def test_calls_with_keepalive(server_address: str, make_client: MakeClient) -> None:
    async with make_client(server_address, keepalive=10) as client:
        assert (await client.pool()).shape == (3, 4, 4)
